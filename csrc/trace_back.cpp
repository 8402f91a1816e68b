#include "trace_back.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace rdprune {

namespace {

constexpr std::size_t maxEdges = std::size_t{1} << 22;

// From a node before the stage, by an option, to a node after it.
struct Edge {
    std::size_t from;
    std::size_t to;
    std::size_t option;
};

struct Graph {
    std::vector<std::vector<Edge>> edges;     // a stage
    std::vector<std::size_t> nodes;           // before each stage, and after the last
    std::size_t forks = 0;
};

Graph collectWays(const std::vector<TraceStage>& stages, Cost cost, Value value) {
    Graph graph;
    graph.edges.resize(stages.size());
    graph.nodes.assign(stages.size() + 1, 1);
    std::vector<std::pair<Cost, Value>> after{{cost, value}};
    std::size_t total = 0;
    for (std::size_t t = stages.size(); t-- > 0;) {
        const TraceStage& stage = stages[t];
        std::vector<std::size_t> found;  // positions in stage.before of this stage's edges
        for (std::size_t node = 0; node < after.size(); ++node)
            for (std::size_t option = 0; option < stage.cost.size(); ++option) {
                const Cost wanted = after[node].first - stage.cost[option];
                const auto at =
                    std::lower_bound(stage.before.begin(), stage.before.end(), wanted);
                const auto position = static_cast<std::size_t>(at - stage.before.begin());
                if (at == stage.before.end() || *at != wanted ||
                    stage.beforeValue[position] != after[node].second - stage.value[option])
                    continue;
                if (total >= maxEdges && !graph.edges[t].empty()) continue;
                graph.edges[t].push_back({position, node, option});
                found.push_back(position);
                ++total;
            }
        graph.forks += found.size() - 1;
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        after.clear();
        for (const std::size_t position : found)
            after.emplace_back(stage.before[position], stage.beforeValue[position]);
        for (Edge& edge : graph.edges[t])
            edge.from = static_cast<std::size_t>(
                std::lower_bound(found.begin(), found.end(), edge.from) - found.begin());
        graph.nodes[t] = found.size();
    }
    return graph;
}

// Drops the edges that no longer lie on a whole way.
void prune(Graph& graph) {
    const std::size_t stages = graph.edges.size();
    std::vector<char> alive(1, 1);
    const auto sweep = [&](std::size_t t, std::size_t nodes, std::size_t Edge::*near,
                           std::size_t Edge::*far) {
        std::vector<char> next(nodes, 0);
        std::erase_if(graph.edges[t], [&](const Edge& edge) { return !alive[edge.*near]; });
        for (const Edge& edge : graph.edges[t]) next[edge.*far] = 1;
        alive = std::move(next);
    };
    for (std::size_t t = 0; t < stages; ++t)
        sweep(t, graph.nodes[t + 1], &Edge::from, &Edge::to);
    alive.assign(1, 1);
    for (std::size_t t = stages; t-- > 0;) sweep(t, graph.nodes[t], &Edge::to, &Edge::from);
}

}  // namespace

std::vector<std::size_t> traceBack(const std::vector<TraceStage>& stages, Cost cost, Value value) {
    Graph graph = collectWays(stages, cost, value);
    if (graph.forks > 0) {
        std::vector<std::size_t> order(stages.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            return stages[a].cls < stages[b].cls;
        });
        for (const std::size_t t : order) {
            Index lowest = std::numeric_limits<Index>::max();
            for (const Edge& edge : graph.edges[t])
                lowest = std::min(lowest, stages[t].index[edge.option]);
            const auto dropped = std::erase_if(graph.edges[t], [&](const Edge& edge) {
                return stages[t].index[edge.option] != lowest;
            });
            if (dropped > 0) prune(graph);
        }
    }
    std::vector<std::size_t> taken(stages.size());
    for (std::size_t t = 0; t < stages.size(); ++t) taken[t] = graph.edges[t].front().option;
    return taken;
}

}  // namespace rdprune
