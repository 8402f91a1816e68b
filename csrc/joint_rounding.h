// From the relaxed optimum to an allocation, gradually.
//
// A mixture of options has a mean response x_l and a mean square q_l for every class. Drawn at
// random from it, independently, the expected objective is
//     |e0 + sum_l x_l|^2 + sum_l (q_l - |x_l|^2),
// the relaxed objective plus the variances. It is linear in the mixture of each class alone, so
// mixing never pays, but it is not convex. With the variances weighted by t, raised from 0 to 1, the
// minimum moves from the relaxed optimum to a nearby allocation. Every step is one of Frank and
// Wolfe: the gradient is linear in the options, a knapsack minimises it, a line search is exact.
//
// References: Raghavan, Thompson 1987, Randomized rounding; Blake, Zisserman 1987, Visual
// Reconstruction (graduated non-convexity).
#pragma once

#include "joint_bound.h"

namespace rdprune {

struct Mixture {
    std::vector<double> means;    // classes x width
    std::vector<double> squares;  // classes
};

[[nodiscard]] Mixture mix(const JointProblem& problem, const JointRelaxation& relaxation);

// Moves by a share of the way towards an allocation.
void moveTowards(const JointProblem& problem, Mixture& mixture,
                 const std::vector<std::size_t>& option, double share);

// Raises t in `steps` steps; nothing if a limit ends it before the first allocation.
[[nodiscard]] std::optional<JointPoint> roundGradually(const JointProblem& problem,
                                                       const Surrogate& surrogate, Mixture mixture,
                                                       std::size_t steps, Watch& watch);

}  // namespace rdprune
