// Lower convex hulls and the linear relaxation of a problem with one cost.
//
// Relaxed to convex combinations of a class's options, the MCKP is solved greedily: start with the
// cheapest option of every class and take hull segments in order of efficiency (distortion
// saved per unit of cost) until the budget is used up. The efficiency of the segment that no
// longer fits is the multiplier lambda; the allocation before it, the base, is feasible. The segment is
// found by selection, not by sorting.
//
// The hulls that a base comes from are computed in double precision and need not be exact: a
// multiplier that is off by a rounding error still gives a valid Lagrangian bound, see list_search.h, and a
// base that is not quite the minimiser of the Lagrangian has reduced costs that are negative by less than
// the margins there. A multiplier of zero proves nothing by itself: what is left to gain may have been
// rounded away. The hulls of a search (stages.h) are bounds themselves, and are computed from exact
// differences, each rounded once.
//
// Reference: Zemel 1980; Sinha and Zoltners 1979, The multiple-choice knapsack problem; Dyer 1984, An
// O(n) algorithm for the multiple-choice knapsack linear program;
// Kellerer, Pferschy, Pisinger 2004, section 11.2.
#pragma once

#include <span>
#include <vector>

#include "problem.h"

namespace rdprune {

// From option `from` to option `to`, counted in a class: `cost` more, value less.
struct Segment {
    double efficiency;  // value per cost, positive
    Cost cost;          // positive
    std::uint32_t from;
    std::uint32_t to;
};

// Hull segments of one class, steepest first, appended. Costs ascend and values descend. Differences are
// exact and then rounded once. O(n).
void appendHull(std::span<const Cost> costs, std::span<const Value> values,
                std::vector<Segment>& segments);

// What does not depend on the budget.
struct Relaxation {
    std::vector<double> cost;   // options, relative to the first one of the class
    std::vector<double> value;  // options, relative to the first one of the class
    std::vector<Segment> segments;
    std::vector<std::uint32_t> cls;  // of each segment
    Cost leastCost = 0;
};
[[nodiscard]] Relaxation relax(const Problem& problem);

// The relaxation's answer for one budget of at least the least cost.
struct Base {
    std::vector<std::size_t> option;  // a class, into the problem's arrays
    Cost slack = 0;                   // budget left by the base
    double multiplier = 0.0;  // value per unit of cost; zero if next to nothing is left to gain
};
[[nodiscard]] Base solveRelaxation(const Problem& problem, const Relaxation& relaxation,
                                   Cost budget);

// The same for one budget after another: the segments are sorted once, and only those between two
// budgets are looked at.
class RelaxationWalk {
public:
    RelaxationWalk(const Problem& problem, const Relaxation& relaxation);
    // As solveRelaxation gives it. Valid until the next call.
    [[nodiscard]] const Base& solve(Cost budget);

private:
    void restart();

    const Problem& problem_;
    const Relaxation& relaxation_;
    std::vector<std::uint32_t> order_;  // segments, most efficient first
    std::size_t taken_ = 0;
    Cost budget_ = 0;
    Base base_;
};

}  // namespace rdprune
