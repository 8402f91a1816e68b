#include "trace_back.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "numbering.h"

namespace rdprune {

namespace {

constexpr std::size_t maxEdges = std::size_t{1} << 22;
constexpr std::size_t leastEdges = std::size_t{1} << 16;  // whatever the limit
constexpr std::size_t edgeBytes = 128;                    // of the limit, for an edge and its node
constexpr std::size_t pollEvery = std::size_t{1} << 14;   // looks for a state

// From a node before the stage, by an option, to a node after it.
struct Edge {
    std::size_t from;
    std::size_t to;
    std::size_t option;
};

struct Graph {
    std::vector<std::vector<Edge>> edges;  // a stage
    std::vector<std::size_t> nodes;        // before each stage, and after the last
};

// Position of the state (cost, value) before a stage, or the number of states.
std::size_t findState(const TraceStage& stage, const std::vector<Cost>& cost, Value value) {
    const std::size_t dimensions = cost.size();
    const std::size_t states = stage.beforeValue.size();
    if (dimensions == 1) {
        const auto at = std::lower_bound(stage.before.begin(), stage.before.end(), cost[0]);
        const auto position = static_cast<std::size_t>(at - stage.before.begin());
        const bool here =
            position < states && *at == cost[0] && stage.beforeValue[position] == value;
        return here ? position : states;
    }
    std::size_t low = 0;
    std::size_t high = states;
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        const auto row = stage.before.subspan(middle * dimensions, dimensions);
        if (std::ranges::lexicographical_compare(row, cost))
            low = middle + 1;
        else
            high = middle;
    }
    const bool found = low < states && stage.beforeValue[low] == value &&
                       std::ranges::equal(stage.before.subspan(low * dimensions, dimensions), cost);
    return found ? low : states;
}

// Edges of one stage into the states `after`, and the positions of the states they come from.
std::vector<std::size_t> collectEdges(const TraceStage& stage, const std::vector<Cost>& after,
                                      const std::vector<Value>& afterValue, std::size_t dimensions,
                                      std::size_t most, std::vector<Edge>& edges, Watch& watch) {
    std::vector<std::size_t> found;
    std::vector<Cost> wanted(dimensions);
    std::size_t steps = 0;
    for (std::size_t node = 0; node < afterValue.size() && edges.size() < most; ++node) {
        for (std::size_t option = 0; option < stage.value.size(); ++option) {
            if (++steps % pollEvery == 0 && watch.expired()) most = 1;
            for (std::size_t d = 0; d < dimensions; ++d)
                wanted[d] = after[node * dimensions + d] - stage.cost[option * dimensions + d];
            const std::size_t position =
                findState(stage, wanted, afterValue[node] - stage.value[option]);
            if (position == stage.beforeValue.size()) continue;
            if (edges.size() >= most) break;
            edges.push_back({position, node, option});
            found.push_back(position);
        }
    }
    Numbering numbering(std::move(found), stage.beforeValue.size(), watch);
    for (std::size_t i = 0; i < edges.size(); ++i) {
        if (i % pollEvery == 0) watch.poll();
        edges[i].from = numbering.numberOf(edges[i].from);
    }
    return std::move(numbering).ascending();
}

Graph collectWays(const std::vector<TraceStage>& stages, std::span<const Cost> cost, Value value,
                  Watch& watch) {
    const std::size_t dimensions = cost.size();
    Graph graph;
    graph.edges.resize(stages.size());
    graph.nodes.assign(stages.size() + 1, 1);
    std::vector<Cost> after(cost.begin(), cost.end());
    std::vector<Value> afterValue{value};
    std::size_t left = std::clamp(watch.bytes() / edgeBytes, leastEdges, maxEdges);
    for (std::size_t t = stages.size(); t-- > 0;) {
        const TraceStage& stage = stages[t];
        const std::vector<std::size_t> found =
            collectEdges(stage, after, afterValue, dimensions, std::max<std::size_t>(left, 1),
                         graph.edges[t], watch);
        left -= std::min(left, graph.edges[t].size());
        graph.nodes[t] = found.size();
        after.clear();
        afterValue.clear();
        for (const std::size_t position : found) {
            if (afterValue.size() % pollEvery == 0) watch.poll();
            const auto row = stage.before.subspan(position * dimensions, dimensions);
            after.insert(after.end(), row.begin(), row.end());
            afterValue.push_back(stage.beforeValue[position]);
        }
    }
    return graph;
}

// Drops the edges that no longer lie on a whole way.
void prune(Graph& graph, Watch& watch) {
    const std::size_t stages = graph.edges.size();
    std::vector<char> alive(1, 1);
    const auto sweep = [&](std::size_t t, std::size_t nodes, std::size_t Edge::* near,
                           std::size_t Edge::* far) {
        watch.poll();
        std::vector<char> next(nodes, 0);
        std::erase_if(graph.edges[t], [&](const Edge& edge) { return !alive[edge.*near]; });
        for (const Edge& edge : graph.edges[t]) next[edge.*far] = 1;
        alive = std::move(next);
    };
    for (std::size_t t = 0; t < stages; ++t) sweep(t, graph.nodes[t + 1], &Edge::from, &Edge::to);
    alive.assign(1, 1);
    for (std::size_t t = stages; t-- > 0;) sweep(t, graph.nodes[t], &Edge::to, &Edge::from);
}

// The only way back; empty as soon as there is a fork.
std::vector<std::size_t> onlyWay(const std::vector<TraceStage>& stages, std::span<const Cost> cost,
                                 Value value, Watch& watch) {
    const std::size_t dimensions = cost.size();
    std::vector<std::size_t> taken(stages.size());
    std::vector<Cost> after(cost.begin(), cost.end());
    std::vector<Cost> wanted(dimensions);
    for (std::size_t t = stages.size(); t-- > 0;) {
        const TraceStage& stage = stages[t];
        std::size_t ways = 0;
        watch.poll();
        for (std::size_t option = 0; option < stage.value.size(); ++option) {
            for (std::size_t d = 0; d < dimensions; ++d)
                wanted[d] = after[d] - stage.cost[option * dimensions + d];
            if (findState(stage, wanted, value - stage.value[option]) == stage.beforeValue.size())
                continue;
            taken[t] = option;
            if (++ways > 1) return {};
        }
        for (std::size_t d = 0; d < dimensions; ++d)
            after[d] -= stage.cost[taken[t] * dimensions + d];
        value -= stage.value[taken[t]];
    }
    return taken;
}

}  // namespace

std::vector<std::size_t> traceBack(const std::vector<TraceStage>& stages,
                                   std::span<const Cost> cost, Value value, Watch& watch) {
    std::vector<std::size_t> only = onlyWay(stages, cost, value, watch);
    if (only.size() == stages.size()) return only;
    Graph graph = collectWays(stages, cost, value, watch);
    prune(graph, watch);  // where edges were left out there are dead ends
    std::vector<std::size_t> order(stages.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return stages[a].cls < stages[b].cls; });
    for (const std::size_t t : order) {
        if (watch.expired()) break;
        Index lowest = std::numeric_limits<Index>::max();
        for (const Edge& edge : graph.edges[t])
            lowest = std::min(lowest, stages[t].index[edge.option]);
        const auto dropped = std::erase_if(graph.edges[t], [&](const Edge& edge) {
            return stages[t].index[edge.option] != lowest;
        });
        if (dropped > 0) prune(graph, watch);
    }
    // One way is left, or several if the time is up.
    std::vector<std::size_t> taken(stages.size());
    std::size_t node = 0;
    for (std::size_t t = 0; t < stages.size(); ++t) {
        const auto edge = std::find_if(graph.edges[t].begin(), graph.edges[t].end(),
                                       [&](const Edge& e) { return e.from == node; });
        taken[t] = edge->option;
        node = edge->to;
    }
    return taken;
}

}  // namespace rdprune
