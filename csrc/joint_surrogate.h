// Separable surrogates of the joint objective: what the knapsack solver can minimise exactly.
//
// About a point with residual r the objective is
//     |r + sum_l d_l|^2 = |r|^2 + sum_l (2 <r, d_l> + |d_l|^2) + sum_{l != l'} <d_l, d_l'>,
// d_l the change of layer l's response. Without its last sum it is separable; with the squares
// weighted by rho >= 1 in its place the step is damped. rho = 1 is exact for the change of one
// layer, rho = L never underestimates.
#pragma once

#include <optional>

#include "joint_linear.h"
#include "solver.h"
#include "watch.h"

namespace rdprune {

// Solves knapsacks over one problem's options for changing distortions.
class Surrogate {
public:
    Surrogate(const JointProblem& problem, std::span<const Cost> budgets, const Limits& limits);

    struct Answer {
        std::vector<std::size_t> option;
        std::vector<double> multipliers;
        double lowerBound = 0.0;  // on the sum of the distortions over all allocations in budget
    };
    // Nothing if a limit ended the search before it found an allocation. Throws InfeasibleBudget.
    [[nodiscard]] std::optional<Answer> minimise(std::span<const Distortion> distortions,
                                                 Watch& watch, std::size_t bytes) const;

    // As minimise, but relaxed where there is one budget, which is many times faster.
    [[nodiscard]] std::optional<Vertex> relaxed(std::span<const double> distortions, Watch& watch,
                                                std::size_t bytes) const;

private:
    const JointProblem& problem_;
    std::span<const Cost> budgets_;
    const Limits& limits_;
    std::vector<Index> offsets_;
    std::vector<Index> groups_;
    std::vector<std::uint8_t> allowed_;
    std::optional<LinearKnapsack> linear_;  // with one budget
};

// For every option the change of the objective if it alone is taken. O(N m).
[[nodiscard]] std::vector<double> singleChanges(const JointProblem& problem,
                                                const JointPoint& point,
                                                std::vector<double>& distances);

struct Descent {
    JointPoint point;
    std::vector<double> multipliers;  // of the last knapsack
    std::vector<double> changes;      // singleChanges at the point
};

// Takes knapsack steps from a feasible point until none of them is an improvement.
[[nodiscard]] Descent descend(const JointProblem& problem, const Surrogate& surrogate,
                              JointPoint point, Watch& watch);

}  // namespace rdprune
