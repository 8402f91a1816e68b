// Exact search for one budget: dynamic programming over lists of states.
//
// Everything is counted from the relaxation's base allocation (hull.h). A state is a choice for the
// classes seen so far, kept as its (cost, value) difference to the base; of two states, one that
// costs no less and is worth no less is dropped. Two cuts keep the lists short. Both use the
// Lagrangian
//     value(x) = bound + R(x) + lambda (budget - cost(x)),   R(x) = sum of reduced costs >= 0,
// and drop what provably cannot end at or below the target:
//   - an option whose own reduced cost exceeds target - bound;
//   - a state whose value plus the linear relaxation of the classes still to come exceeds the
//     target. The relaxation is a convex, piecewise linear function of the cost that is left,
//     walked along with the sorted states.
// Every allocation at or below the target survives. So if any final state is there, the least is
// the optimum; if none is, the target is a proved lower bound, and the caller raises it.
//
// Rounding. States are integers. The cuts compare doubles computed from exact integer
// differences; each is off by at most a few units in the last place of S = sum over classes of
// max(|value| + lambda |cost|) over surviving options. A cut is made only beyond
// target + 2^-44 S, so rounding can keep a state too many and never drops one too few.
//
// Order. Classes with the widest range of costs come first: their choices are few and coarse, and
// what the narrow ones can still make up for is soon too little, so most states die early. From
// last to first in the table's order the lists grow a hundred times longer. trace_back.h restores
// the preferred choice among ties.
//
// Time and memory O(sum of list lengths x options surviving per class).
// References: Dyer, Kayal, Walker 1984; Pisinger 1995, A minimal algorithm for the multiple-choice
// knapsack problem, EJOR 83; Kellerer, Pferschy, Pisinger 2004, sections 11.5 and 11.6.
#pragma once

#include <optional>
#include <vector>

#include "hull.h"
#include "watch.h"

namespace rdprune {

struct ListSearch {
    enum class Outcome { found, nothing, limit };
    Outcome outcome = Outcome::nothing;
    std::vector<std::size_t> option;  // a class, into the problem's arrays; if found
    Value value = 0;                  // relative to the base; if found
    std::size_t states = 0;
};

// Searches for the best allocation of value at most `target` (relative to the base). `reduced`
// holds every option's reduced cost at the base's multiplier. A `beam` above zero keeps only that
// many most promising states a list: fast, but then `nothing` proves nothing and `found` is only an
// allocation.
[[nodiscard]] ListSearch searchLists(const Problem& problem, const Base& base,
                                     const std::vector<double>& reduced, Value target,
                                     std::size_t beam, Watch& watch);

// Reduced cost of every option: value + multiplier * cost, relative to the base's option of its
// class.
[[nodiscard]] std::vector<double> reducedCosts(const Problem& problem, const Base& base);

}  // namespace rdprune
