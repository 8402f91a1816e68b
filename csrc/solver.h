// The front door of the core: one instance, any number of budgets, an allocation for each.
#pragma once

#include <stdexcept>
#include <vector>

#include "problem.h"
#include "watch.h"

namespace rdprune {

struct Solution {
    std::vector<Index> choice;  // layers; option index inside the layer
    // Proved; otherwise a limit ended the search, or distortions had to be rounded (fixed_point.h).
    bool optimal = false;
    Distortion lowerBound = 0.0;  // no allocation within the budget has less; valid if not optimal
    std::vector<double> multipliers;  // dimensions; distortion saved per unit of cost, >= 0
    std::size_t states = 0;           // kept by the search, as a measure of its work
};

// No allocation keeps within the budgets.
class InfeasibleBudget : public std::runtime_error {
public:
    explicit InfeasibleBudget(std::vector<Cost> least)
        : std::runtime_error("no allocation keeps within the budget"), least_(std::move(least)) {}
    // Least total of each cost, taken alone.
    [[nodiscard]] const std::vector<Cost>& least() const { return least_; }

private:
    std::vector<Cost> least_;
};

// The feasible allocation of least total distortion; among equals the one of least cost (the first
// cost first), among those the lexicographically smallest choice. `budgets` holds dimensions
// numbers for each solution. The limits hold for each of them, less what the preparation took. Throws
// std::invalid_argument and InfeasibleBudget.
[[nodiscard]] std::vector<Solution> solve(const Instance& instance, std::span<const Cost> budgets,
                                          const Limits& limits);

}  // namespace rdprune
