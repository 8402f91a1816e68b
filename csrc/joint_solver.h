// The joint objective from start to end: starting points, knapsack steps, local search, a bound, and
// for small instances the proof.
#pragma once

#include "joint_problem.h"
#include "solver.h"
#include "watch.h"

namespace rdprune {

struct JointSolution {
    std::vector<Index> choice;        // layers
    Distortion distortion = 0.0;      // F of the choice
    Distortion lowerBound = 0.0;      // no allocation within the budgets has less
    bool optimal = false;             // proved
    std::vector<double> multipliers;  // dimensions
    std::size_t states = 0;           // nodes of the exact search
};

// Throws std::invalid_argument, InfeasibleBudget, and std::runtime_error if a limit ended the
// search before any allocation within several budgets was found.
[[nodiscard]] JointSolution solveJoint(const JointInstance& instance, std::span<const Cost> budgets,
                                       const Limits& limits);

// Steps and local search alone, without the exact search; for measuring how good they are.
[[nodiscard]] JointSolution searchJoint(const JointInstance& instance,
                                        std::span<const Cost> budgets, const Limits& limits);

}  // namespace rdprune
