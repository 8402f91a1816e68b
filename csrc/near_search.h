// The list search of list_search.h, for the k best allocations instead of the best.
//
// A state that another one dominates may still lead to the second best, so dominance is by rank: a
// state is dropped if k partial choices or more have no higher cost and no higher value, and a lower
// one of the two. Completed in the same way as any completion of the state, each of them is preferred
// to it, so it is not among the k best. To count them, a state knows in how many ways it can be
// reached, up to k; states of equal cost and value are one. The options of a class are treated alike.
//
// The cuts by the target are those of list_search.h, with its rule for rounding: every one of the k
// best allocations at or below the target survives. The margin here is 2^-44 of the sum over all
// options, not only the surviving ones.
//
// O(sum of list lengths x options surviving per class x log k).
#pragma once

#include <limits>
#include <vector>

#include "problem.h"
#include "release.h"
#include "watch.h"

namespace rdprune {

// Rows ascend by cost, then by value; all are different.
struct NearList {
    LargeVector<Cost> cost;
    LargeVector<Value> value;
    LargeVector<std::uint32_t> ways;  // up to k
    std::size_t peak = 0;             // rows written since the search began

    [[nodiscard]] std::size_t size() const { return cost.size(); }
    void restart(std::size_t most);  // empty, with room for so many
    void push(Cost c, Value v, std::uint32_t n);
};

inline constexpr std::size_t nearStateBytes =
    sizeof(Cost) + sizeof(Value) + sizeof(std::uint32_t);  // of a row of a list

struct NearStage {
    std::size_t cls = 0;
    std::vector<std::size_t> option;  // positions in the problem's arrays
    std::vector<Index> index;         // inside the layer
    NearList rows;                    // relative to the base; one way each
};

// What the search counts from: a Lagrangian bound and the options that give it.
struct NearBase {
    std::vector<std::size_t> option;  // a class, into the problem's arrays
    double multiplier = 0.0;
    Cost slack = 0;  // budget left by the base
};

inline constexpr std::size_t noBeam = std::numeric_limits<std::size_t>::max();

struct NearEffort {
    std::uint32_t ways = 1;  // k
    std::size_t beam;        // most promising states kept of each list
    std::size_t states;      // ends the search with `limit` beyond so many
};

struct NearSearch {
    bool limit = false;  // stopped; then the rest is void
    std::vector<NearStage> stages;
    std::vector<NearList> lists;  // before each stage, and after the last
    std::size_t states = 0;
};

// Frees what the lists hold, with looks in between: all at once may take a quarter of a second.
void giveBack(std::vector<NearList>& lists, Watch& watch);

// Above every difference of two totals: a search for this target cuts nothing for its value.
inline constexpr Value noTarget = static_cast<Value>(1) << 125;

// `problem` with its dominated options (layout.h); `target` relative to the base.
[[nodiscard]] NearSearch searchNear(const Problem& problem, const NearBase& base, Value target,
                                    const NearEffort& effort, Watch& watch);

}  // namespace rdprune
