// Many instances that differ in their distortions alone, solved side by side in threads.
//
// What they share is made once (layout.h); every thread takes the next instance that nobody has taken and
// keeps its workspace from one to the next. Each answer is the one that solve gives for the
// instance alone, whatever the number of threads.
//
// O(shared preparation + sum of the single solves / threads).
#pragma once

#include <span>
#include <vector>

#include "solver.h"
#include "watch.h"

namespace rdprune {

// `instance.distortions` holds one row of options after the other. `budgets` holds one number a
// dimension, the same for all. `limits` hold for every instance; `poll` is called by this thread
// alone. Throws what solve throws for the first instance that it throws for, named unless it is
// InfeasibleBudget, which all share.
[[nodiscard]] std::vector<Solution> solveBatch(const Instance& instance,
                                               std::span<const Cost> budgets, std::size_t threads,
                                               const Limits& limits);

}  // namespace rdprune
