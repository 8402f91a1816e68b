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

// Steps and local search alone, without the exact search: how good are they? An effort above one
// multiplies the trials, the finalists and the kicks, and looks at more options from the start.
[[nodiscard]] JointSolution searchJoint(const JointInstance& instance,
                                        std::span<const Cost> budgets, const Limits& limits,
                                        std::size_t effort);

// The exact search alone, from the additive optimum and with all the work it needs: an oracle.
[[nodiscard]] JointSolution solveJointExact(const JointInstance& instance,
                                            std::span<const Cost> budgets, const Limits& limits);

}  // namespace rdprune
