// The k best allocations under one budget, in order: first the optimum (solver.h), then list searches that
// keep what may be among the k best (near_search.h), with a rising target until k lie below it.
//
// Allocations are ordered as solve orders them: least distortion, least cost, smallest choice.
#pragma once

#include <limits>
#include <vector>

#include "solver.h"
#include "watch.h"

namespace rdprune {

struct NearOptimal {
    std::vector<std::vector<Index>> choices;  // each one option index a layer; the best first
    bool optimal = false;                     // proved: these are the best, in this order
    bool bestOptimal = false;                 // proved: the first one is the optimum
    bool complete = false;        // proved: no further one is feasible and as close as asked for
    Distortion lowerBound = 0.0;  // no other allocation within the budget has less
    double multiplier = 0.0;      // distortion saved per unit of cost, >= 0
};

struct Nearness {
    std::size_t most = 1;  // how many allocations, k
    // How much worse than the optimum D they may be: the larger of relative * |D| and absolute.
    double relative = std::numeric_limits<double>::infinity();
    double absolute = std::numeric_limits<double>::infinity();
};

// The instance must have one cost. Throws std::invalid_argument and InfeasibleBudget.
[[nodiscard]] NearOptimal solveNearOptimal(const Instance& instance, Cost budget,
                                           const Nearness& nearness, const Limits& limits);

}  // namespace rdprune
