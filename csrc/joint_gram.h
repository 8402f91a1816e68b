// The joint problem among few options, with all their inner products at hand.
//
// With the Gram matrix of T options the change of the objective by any set of moves costs O(1) for
// each pair of moves, where the responses would take O(m). It pays where T is small beside m or the
// options are moved over many times; the whole table's matrix seldom does.
#pragma once

#include "joint_problem.h"

namespace rdprune {

struct GramProblem {
    std::size_t dimensions = 1;
    std::vector<std::size_t> offsets;   // classes + 1
    std::vector<std::size_t> source;    // T; position among the JointProblem's options
    std::vector<std::size_t> classFor;  // T
    std::vector<Cost> costs;            // T x dimensions
    std::vector<double> linear;         // T; <e0, v>
    std::vector<double> gram;           // T x T

    [[nodiscard]] std::size_t size() const { return source.size(); }
    [[nodiscard]] const double* row(std::size_t option) const {
        return gram.data() + option * size();
    }
};

// `options` are positions among the problem's options, ascending, at least one a class. O(T^2 m).
[[nodiscard]] GramProblem makeGram(const JointProblem& problem,
                                   const std::vector<std::size_t>& options);

// About `count` options a class: the point's own and those of least reduced cost.
[[nodiscard]] std::vector<std::size_t> shortlist(const JointProblem& problem,
                                                 const JointPoint& point,
                                                 const std::vector<double>& changes,
                                                 const std::vector<double>& multipliers,
                                                 std::size_t count);

}  // namespace rdprune
