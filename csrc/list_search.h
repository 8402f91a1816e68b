// Exact search for one budget: dynamic programming over lists of states.
//
// Everything is counted from the relaxation's base allocation (hull.h). A state is a choice for the
// classes seen so far, kept as its (cost, value) difference to the base; of two states, one that
// costs no less and is worth no less is dropped. Three cuts keep the lists short. All use the
// Lagrangian
//     value(x) = bound + R(x) + lambda (budget - cost(x)),   R(x) = sum of reduced costs >= 0,
// and drop what provably cannot end at or below the target:
//   - an option whose own reduced cost exceeds target - bound (stages.h);
//   - an extension of a state whose sum of reduced costs does, before it is merged into the list;
//   - a state whose value plus the linear relaxation of the classes still to come exceeds the
//     target. The relaxation is a convex, piecewise linear function of the cost that is left,
//     walked along with the sorted states.
// Every allocation at or below the target survives. So if any final state is there, the least is
// the optimum; if none is, the target is a proved lower bound.
//
// The same walk shows, for every state, an allocation of the classes to come that fits into what is
// left. The best one found becomes the target from there on, which no allocation worth less fails.
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

#include <algorithm>
#include <limits>
#include <vector>

#include "buffer.h"
#include "release.h"
#include "stages.h"
#include "trace_back.h"
#include "watch.h"

namespace rdprune {

// Parallel arrays, of which the first `size` count; in a list, cost strictly ascends and value strictly
// descends.
struct StateList {
    Buffer<Cost> cost;
    Buffer<Value> value;
    std::size_t size = 0;
    std::size_t peak = 0;  // written since the search began

    void reserve(std::size_t most) {
        cost.reserve(most);
        value.reserve(most);
    }
    void giveBack(Watch& watch) {
        cost.giveBack(watch);
        value.giveBack(watch);
    }
};

// Memory of a search, kept from one to the next so that none allocates in its loops. Holds nothing
// that outlives the searches for one budget.
struct Workspace {
    Prices prices;
    Stages stages;
    StateList states;                // all lists, one after the other
    std::vector<std::size_t> lists;  // where each begins
    StateList merged;
    std::vector<StateList> pool;
    LargeVector<double> bounds;   // of the states of the last list
    LargeVector<double> reduced;  // of the states of the last list
    LargeVector<double> sorted;
    std::vector<std::size_t> active;  // options of a stage that are still of use
    std::size_t held = 0;             // bytes, about, of the search that used most

    // Memory that was of use to other searches does not count for the next.
    void startWithin(std::size_t bytes, Watch& watch) {
        if (held > bytes / 16) giveBack(watch);
    }
    // Empties it, with looks in between: all at once may take a quarter of a second.
    void giveBack(Watch& watch);
};

struct ListSearch {
    // `found`: `option` is the optimum, if that is at or below the target. `nothing`: proved that no
    // allocation is. `limit`: neither; a list was thinned out, or the effort was used up.
    enum class Outcome { found, nothing, limit };
    Outcome outcome = Outcome::nothing;
    bool exhausted = false;  // the memory was used up
    std::vector<std::size_t>
        option;          // a class, into the problem's arrays; best one known, maybe none
    Value value = 0;     // of `option`, relative to the base
    double bound = 0.0;  // unless `found`: no allocation is worth less
    std::size_t states = 0;
};

inline constexpr std::size_t stateBytes = sizeof(Cost) + sizeof(Value);
inline constexpr std::size_t listBytes = 3 * sizeof(double);  // more, for a state of the last list
inline constexpr std::size_t noLimit = std::numeric_limits<std::size_t>::max();

// `beam` keeps only that many most promising states a list. `states` ends the search once it holds so many.
struct Effort {
    std::size_t beam = noLimit;
    std::size_t states = noLimit;
};

// Searches for the best allocation of value at most `target`, where one of value `known` is known already
// (both relative to the base). Needs the prices of this base in `work`.
[[nodiscard]] ListSearch searchLists(const Problem& problem, const Base& base, Value target,
                                     Value known, const Effort& effort, Workspace& work,
                                     Watch& watch);

}  // namespace rdprune
