// Several costs under budgets: multipliers, then vector searches with a rising gap.
#pragma once

#include "problem.h"
#include "solver.h"
#include "watch.h"

namespace rdprune {

// Throws InfeasibleBudget if no allocation keeps all budgets, and std::runtime_error if a limit
// ended the search before it found one that does, and none was found cheaply (multi_repair.h).
[[nodiscard]] Solution solveMultiBudget(const Problem& problem, std::span<const Cost> budgets,
                                        const Limits& limits);

}  // namespace rdprune
