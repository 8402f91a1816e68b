// Multipliers for several budgets: the maximum of the Lagrangian dual
//
//   q(lambda) = sum_l min_k (d_l(k) + lambda . c_l(k)) - lambda . B,   lambda >= 0,
//
// by Dantzig-Wolfe column generation. The master problem, a convex combination of whole allocations
// that keeps the budgets on average, has one row a budget and one for convexity, so its basis is
// tiny; its prices are the next lambda, the allocation that minimises the Lagrangian there the next
// column. Any lambda >= 0 gives a valid bound, so neither convergence nor rounding touches
// exactness.
//
// O(iterations x options x dimensions). Reference: Dantzig, Wolfe 1960; Fisher 1981, The
// Lagrangian relaxation method for solving integer programming problems.
#pragma once

#include <span>
#include <vector>

#include "problem.h"
#include "watch.h"

namespace rdprune {

// Units of value per unit of each cost; the best of all lambdas tried before the time was up.
[[nodiscard]] std::vector<double> findMultipliers(const Problem& problem,
                                                  std::span<const Cost> budgets, Watch& watch);

// The option of every class that minimises value + lambda . cost by its difference to `origins`, without
// them the first options; among equals the origin's, else the first one.
[[nodiscard]] std::vector<std::size_t> minimiseLagrangian(
    const Problem& problem, const std::vector<double>& multipliers,
    std::span<const std::size_t> origins = {});

// Sum over classes of the largest value less the least; 1 if that is zero.
[[nodiscard]] double valueRange(const Problem& problem);

// sum over classes of max(|value| + lambda . cost): what rounding errors of a bound are relative to.
[[nodiscard]] double lagrangianScale(const Problem& problem,
                                     const std::vector<double>& multipliers);

}  // namespace rdprune
