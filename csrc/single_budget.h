// One cost under a budget: relaxation, then list searches with a rising target.
#pragma once

#include "list_search.h"
#include "solver.h"
#include "watch.h"

namespace rdprune {

// The answer of the relaxation is the one for this budget.
[[nodiscard]] Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation,
                                         const Base& base, const Limits& limits, Workspace& work);

// Throws InfeasibleBudget if not even the least cost fits.
[[nodiscard]] Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation,
                                         Cost budget, const Limits& limits, Workspace& work);

// Says of a proved optimum of the fixed-point numbers that it is one of the distortions, or, if these were
// rounded, how far it may be from one.
void settle(const Problem& problem, const std::vector<std::size_t>& option, Solution& solution);

}  // namespace rdprune
