// From the final state of a list search back to the choice it stands for.
//
// A list keeps one state for all partial choices of equal cost and value, so the way back may fork:
// each fork is a tie. All ways back to the start form a graph with one layer of nodes a stage; the
// lexicographically smallest choice takes, class by class in the table's order, the lowest option
// index that still lies on a whole way, and drops the rest. Without ties the graph is a path.
//
// O(stages x options x log states) without ties, O(classes x edges) with them.
#pragma once

#include <span>
#include <vector>

#include "types.h"
#include "watch.h"

namespace rdprune {

struct TraceStage {
    std::size_t cls = 0;                 // position in the order of preference
    std::span<const Cost> cost;          // options x dimensions
    std::span<const Value> value;        // options
    std::span<const Index> index;        // options; the lower one is preferred
    std::span<const Cost> before;        // states before this stage x dimensions, ascending as rows
    std::span<const Value> beforeValue;  // states before this stage, all rows different
};

// Which option every stage takes. `cost` (dimensions) and `value` are the final state. Beyond four
// million tied ways (fewer, but 65,536 at least, under a memory limit below half a gibibyte), or once the
// time is up, the rest are not looked at.
[[nodiscard]] std::vector<std::size_t> traceBack(const std::vector<TraceStage>& stages,
                                                 std::span<const Cost> cost, Value value,
                                                 Watch& watch);

}  // namespace rdprune
