// Lower convex hulls and the linear relaxation of a problem with one cost.
//
// Relaxed to convex combinations of a class's options, the MCKP is solved greedily: start with the
// cheapest option of every class and take hull segments in order of efficiency (distortion saved
// per unit of cost) until the budget is used up. The efficiency of the segment that no longer fits
// is the multiplier lambda; the allocation before it, the base, is feasible.
//
// Hulls are computed in double precision and need not be exact: a multiplier that is off by a
// rounding error still gives a valid Lagrangian bound, see list_search.h.
//
// Reference: Zemel 1980; Sinha and Zoltners 1979, The multiple-choice knapsack problem;
// Kellerer, Pferschy, Pisinger 2004, section 11.2.
#pragma once

#include <span>
#include <vector>

#include "problem.h"

namespace rdprune {

// From option `from` to option `to` of a class: `cost` more, `value` less.
struct Segment {
    double efficiency;  // value per cost, positive
    Cost cost;          // positive
    Value value;        // positive
    std::size_t cls;
    std::size_t from;
    std::size_t to;
};

// Hull segments of one class with costs ascending and values descending, steepest first. O(n).
// `costs` and `values` are those of the options first, first + 1, ...
void appendHull(std::span<const Cost> costs, std::span<const Value> values, std::size_t cls,
                std::size_t first, std::vector<Segment>& segments);

// All hull segments of a one-cost problem by falling efficiency, with running totals.
struct Relaxation {
    std::vector<Segment> segments;
    std::vector<std::uint32_t> order;  // of the segments
    std::vector<Cost> totalCost;       // after that many segments of the order
};
[[nodiscard]] Relaxation relax(const Problem& problem);

// The relaxation's answer for one budget of at least the least cost.
struct Base {
    std::vector<std::size_t> option;  // a class, into the problem's arrays
    std::vector<std::size_t> greedy;  // base, filled up with every later segment that fits
    Cost slack = 0;                   // budget left by the base
    Value greedyGain = 0;             // value of the base - value of greedy
    double multiplier = 0.0;  // units of value per unit of cost; zero if nothing is left to gain
};
[[nodiscard]] Base solveRelaxation(const Problem& problem, const Relaxation& relaxation,
                                   Cost budget);

}  // namespace rdprune
