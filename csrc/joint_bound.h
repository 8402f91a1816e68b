// A lower bound on the joint objective: the shortest vector of the relaxed problem.
//
// The residuals of all allocations within the budgets are points in R^m. In their convex hull, or
// with one budget in the slightly larger set of all mixtures that keep it, the shortest vector x is
// found by Wolfe's algorithm, which is the Frank-Wolfe method with every step fully corrected. Its
// linear oracle, the vertex whose residual is least along x, is a knapsack. For any direction x,
// optimal or not, every allocation has
//     |r| >= <x, r> / |x| >= min over allocations <x, r> / |x|,
// so every oracle call proves a bound, and the best one is kept; the last one is exact.
//
// Each iteration costs O(N m), a knapsack and O(n m + n^2) for n points held.
// References: Frank, Wolfe 1956; Wolfe 1976, Finding the nearest point in a polytope, Mathematical
// Programming 11; Lacoste-Julien, Jaggi 2015, On the global linear convergence of Frank-Wolfe
// optimization variants.
#pragma once

#include "joint_surrogate.h"

namespace rdprune {

struct JointRelaxation {
    std::vector<double> residual;  // shortest vector found in the hull
    std::vector<Vertex> vertices;  // what it is a mixture of
    std::vector<double> weights;   // of the vertices, summing to one
    double bound = 0.0;            // no allocation in budget has a lower square
};

// Starts from the hull of some vertices, at least one. Stops once the bound is within a small
// share of the relaxation's value, or both are negligible beside `known`, a square that is reached.
[[nodiscard]] JointRelaxation relaxJoint(const JointProblem& problem, const Surrogate& surrogate,
                                         const std::vector<Vertex>& starts, double known,
                                         std::size_t iterations, Watch& watch);

}  // namespace rdprune
