// Local search among few options a class, with all their inner products at hand.
//
// With the Gram matrix Q of T options, the change of any set of moves costs O(1) for each pair of
// moves, and one move updates all T first-order terms in O(T): microseconds where the responses
// would take O(T m). The T options are those closest to being taken, by reduced cost; where all
// options fit they are all there.
//
// Moves: one class; two classes, typically one that gives cost and one that takes it; three
// classes, built on the best pairs whether or not these keep the budgets. Then seeded kicks: some
// classes jump, budgets are repaired, moves follow, the better point is kept.
#pragma once

#include "joint_problem.h"
#include "random.h"
#include "watch.h"

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

// Searches from a feasible point, all of whose options are in `gram`; the best point found.
[[nodiscard]] JointPoint searchLocally(const JointProblem& problem, const GramProblem& gram,
                                       const JointPoint& start, std::span<const Cost> budgets,
                                       const std::vector<double>& multipliers, std::size_t kicks,
                                       Random& random, Watch& watch);

}  // namespace rdprune
