// The linear relaxation of a knapsack with one budget, for distortions that change at every call.
//
// The relaxed joint problem and its roundings ask for thousands of these and need no more than a
// vertex, so they are solved in doubles, on costs sorted once. As in hull.h, segments of the
// classes' lower hulls are taken by falling efficiency until the budget is used up; the efficiency of
// the one that no longer fits is the multiplier. The bound is the Lagrangian one, computed from all
// options, so that a rounding error in a hull cannot make it wrong.
//
// O(N + H log H) with H hull segments. Reference: Zemel 1980.
#pragma once

#include "joint_problem.h"

namespace rdprune {

// A vertex of the relaxed knapsack: an allocation, one class of which may be torn between two
// options.
struct Vertex {
    std::vector<std::size_t> option;
    std::size_t cls = 0;
    std::size_t other = 0;
    double share = 0.0;                 // of the other option in that class
    std::vector<std::size_t> feasible;  // an allocation near it
    double lowerBound = 0.0;            // on the distortions' sum over all allocations in budget
};

// An allocation as a vertex.
[[nodiscard]] Vertex toVertex(std::vector<std::size_t> option);

class LinearKnapsack {
public:
    // For a problem with one cost.
    LinearKnapsack(const JointProblem& problem, Cost budget);

    // The budget must not be below the least cost.
    [[nodiscard]] Vertex minimise(std::span<const double> distortions) const;
    [[nodiscard]] Cost leastCost() const { return leastCost_; }

private:
    struct Segment {
        double efficiency;
        Cost cost;
        std::size_t from;
        std::size_t to;
    };
    // A segment by its efficiency; lighter to sort than the segment itself.
    struct Rank {
        double efficiency;
        std::size_t segment;
    };
    [[nodiscard]] double bound(std::span<const double> distortions, double multiplier) const;

    const JointProblem& problem_;
    std::vector<std::size_t> order_;  // options; in every class by cost
    std::vector<double> extra_;       // options in that order; cost beyond the class's least
    Cost budget_;
    Cost leastCost_ = 0;
};

}  // namespace rdprune
