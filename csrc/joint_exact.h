// The joint optimum proved, where there are few options or the relaxation leaves few.
//
// Depth first, one class a level, with all inner products at hand. For a partial allocation with
// residual r_p let y be r_p plus the relaxed means x_l of the classes to come. Every completion
// within the budgets, whatever the multipliers lambda >= 0, has
//
//     <y, r>  >=  <y, r_p> + sum_l min_k (<y, v_l(k)> + lambda . c_l(k)) - lambda . left =: A,
//
// and |r| >= A / |y|: beyond the best known length the node is out. At the root this is the
// relaxation's bound, and an option that fails it alone is out everywhere. A node costs O(options to
// come), a leaf O(1). Leaves within rounding of the best one are compared by their own residuals: the
// answer has the least computed value, then the lower cost, then the smaller choice.
//
// Reference: Land, Doig 1960, An automatic method of solving discrete programming problems.
#pragma once

#include "joint_bound.h"

namespace rdprune {

struct JointExact {
    JointPoint best;
    bool complete = false;  // the best is proved optimal
    std::size_t nodes = 0;
};

// `known` is a feasible allocation. Stops when its work, in additions, reaches a limit.
[[nodiscard]] JointExact provedOptimum(const JointProblem& problem, const Surrogate& surrogate,
                                       std::span<const Cost> budgets, const JointPoint& known,
                                       const JointRelaxation& relaxation, std::size_t work,
                                       Watch& watch);

}  // namespace rdprune
