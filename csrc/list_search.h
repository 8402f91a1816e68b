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

#include <limits>
#include <vector>

#include "hull.h"
#include "trace_back.h"
#include "watch.h"

namespace rdprune {

// Parallel arrays; in a list, cost strictly ascends and value strictly descends.
struct StateList {
    std::vector<Cost> cost;
    std::vector<Value> value;

    [[nodiscard]] std::size_t size() const { return cost.size(); }
    void resize(std::size_t size) {
        cost.resize(size);
        value.resize(size);
    }
};

// Memory of a search, kept from one to the next so that none allocates in its loops. Holds nothing
// that outlives a search.
struct Workspace {
    struct Stage {
        std::size_t cls;
        std::size_t first;   // into cost, value and index
        std::size_t count;   // of options
        std::size_t option;  // into option
    };
    struct Slope {  // a hull segment: more cost, less value
        double efficiency;
        Cost cost;
        Value value;
        std::uint32_t stage;
    };
    struct Knot {
        Cost cost;
        double value;
        double efficiency;  // towards the next knot
    };
    std::vector<Stage> stages;
    std::vector<std::uint32_t> option;  // positions in the problem's arrays
    std::vector<Cost> cost;             // of options, relative to the base, stage after stage
    std::vector<Value> value;
    std::vector<Index> index;
    std::vector<Slope> right;  // more cost than the base, less value; flattening
    std::vector<Slope> left;   // less cost, more value; steepening
    std::vector<Knot> knots;
    StateList states;                // all lists, one after the other
    std::vector<std::size_t> lists;  // where each begins
    StateList merged;
    std::vector<StateList> pool;
    std::vector<double> bounds;
};

struct ListSearch {
    enum class Outcome { found, nothing, limit };
    Outcome outcome = Outcome::nothing;
    std::vector<std::size_t> option;  // a class, into the problem's arrays; if found
    Value value = 0;                  // relative to the base; if found
    std::size_t states = 0;
};

inline constexpr std::size_t noLimit = std::numeric_limits<std::size_t>::max();

// `beam` keeps only that many most promising states a list: fast, but then `nothing` proves nothing and
// `found` is only an allocation. `states` ends the search with `limit` once it holds so many.
struct Effort {
    std::size_t beam = noLimit;
    std::size_t states = noLimit;
};

// Searches for the best allocation of value at most `target` (relative to the base).
[[nodiscard]] ListSearch searchLists(const Problem& problem, const Relaxation& relaxation,
                                     const Base& base, Value target, const Effort& effort,
                                     Workspace& work, Watch& watch);

// The gap to the bound within which this many classes have an option besides the base's.
[[nodiscard]] double undecidedGap(const Problem& problem, const Relaxation& relaxation,
                                  const Base& base, std::size_t undecided);

}  // namespace rdprune
