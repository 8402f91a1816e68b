#include "near_trace.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace rdprune {

namespace {

constexpr std::size_t maxEdges = std::size_t{1} << 22;
constexpr std::size_t leastEdges = std::size_t{1} << 16;  // whatever the limit
constexpr std::size_t edgeBytes = 128;                    // of the limit, for an edge and its node

// From a node before the stage, by an option, to a node after it.
struct Edge {
    std::uint32_t from;
    std::uint32_t to;
    std::uint32_t option;
};

// Edges of a stage; the first `alive` of them still lie on a whole way. What is dropped moves behind
// them, so that setting `alive` back brings it back.
struct Layer {
    std::vector<Edge> edges;
    std::size_t alive = 0;
    std::vector<std::uint32_t> mark;  // of nodes before the stage
};

class Ways {
public:
    Ways(const NearSearch& search, std::size_t state, Watch& watch);

    [[nodiscard]] bool whole() const { return whole_; }
    std::vector<std::vector<std::size_t>> list(std::size_t most);

private:
    void collect(std::size_t stage, std::vector<std::size_t>& nodes);
    template <typename Keep>
    bool keepIf(std::size_t stage, Keep&& keep);
    void prune();
    void choose(std::size_t position);

    const NearSearch& search_;
    Watch& watch_;
    std::vector<Layer> layers_;
    std::vector<std::uint32_t> lastMark_;  // of the one node after the last stage
    std::uint32_t marks_ = 0;
    std::size_t left_;
    bool whole_ = true;
    std::vector<std::size_t> order_;  // stages by class
    std::size_t most_ = 0;
    std::vector<std::vector<std::size_t>> found_;
};

// Position of a state, or the size of the list.
std::size_t findState(const NearList& list, Cost cost, Value value) {
    std::size_t low = 0;
    std::size_t high = list.size();
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        if (list.cost[middle] != cost ? list.cost[middle] < cost : list.value[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    const bool found = low < list.size() && list.cost[low] == cost && list.value[low] == value;
    return found ? low : list.size();
}

// Edges of a stage into the states `nodes`, which become the states they come from.
void Ways::collect(std::size_t stage, std::vector<std::size_t>& nodes) {
    const NearList& before = search_.lists[stage];
    const NearList& after = search_.lists[stage + 1];
    const NearList& rows = search_.stages[stage].rows;
    Layer& layer = layers_[stage];
    std::vector<std::size_t> found;
    for (std::size_t node = 0; node < nodes.size(); ++node) {
        if (node % 256 == 255 && watch_.expired()) left_ = 0;
        if (left_ == 0 && !layer.edges.empty()) {
            whole_ = false;
            break;
        }
        for (std::size_t option = 0; option < rows.size(); ++option) {
            const std::size_t position =
                findState(before, after.cost[nodes[node]] - rows.cost[option],
                          after.value[nodes[node]] - rows.value[option]);
            if (position == before.size()) continue;
            if (left_ == 0 && !layer.edges.empty()) {
                whole_ = false;
                continue;
            }
            left_ -= std::min<std::size_t>(left_, 1);
            layer.edges.push_back({static_cast<std::uint32_t>(position),
                                   static_cast<std::uint32_t>(node),
                                   static_cast<std::uint32_t>(option)});
            found.push_back(position);
        }
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    for (Edge& edge : layer.edges)
        edge.from = static_cast<std::uint32_t>(
            std::lower_bound(found.begin(), found.end(), edge.from) - found.begin());
    layer.alive = layer.edges.size();
    layer.mark.assign(found.size(), 0);
    nodes = std::move(found);
}

Ways::Ways(const NearSearch& search, std::size_t state, Watch& watch)
    : search_(search),
      watch_(watch),
      layers_(search.stages.size()),
      lastMark_(1, 0),
      left_(std::clamp(watch.bytes() / edgeBytes, leastEdges, maxEdges)) {
    std::vector<std::size_t> nodes{state};
    for (std::size_t t = layers_.size(); t-- > 0;) collect(t, nodes);
    if (!whole_) prune();  // where edges were left out there are dead ends
    order_.resize(layers_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
        return search.stages[a].cls < search.stages[b].cls;
    });
}

template <typename Keep>
bool Ways::keepIf(std::size_t stage, Keep&& keep) {
    Layer& layer = layers_[stage];
    const auto begin = layer.edges.begin();
    const auto end = begin + static_cast<std::ptrdiff_t>(layer.alive);
    const auto kept = static_cast<std::size_t>(std::partition(begin, end, keep) - begin);
    return std::exchange(layer.alive, kept) != kept;
}

// Drops the edges that no longer lie on a whole way.
void Ways::prune() {
    watch_.poll();
    const std::size_t stages = layers_.size();
    const auto after = [&](std::size_t t) -> std::vector<std::uint32_t>& {
        return t + 1 < stages ? layers_[t + 1].mark : lastMark_;
    };
    ++marks_;
    layers_.front().mark.front() = marks_;
    for (std::size_t t = 0; t < stages; ++t) {
        keepIf(t, [&](const Edge& edge) { return layers_[t].mark[edge.from] == marks_; });
        for (std::size_t i = 0; i < layers_[t].alive; ++i)
            after(t)[layers_[t].edges[i].to] = marks_;
    }
    ++marks_;
    lastMark_.front() = marks_;
    for (std::size_t t = stages; t-- > 0;) {
        keepIf(t, [&](const Edge& edge) { return after(t)[edge.to] == marks_; });
        for (std::size_t i = 0; i < layers_[t].alive; ++i)
            layers_[t].mark[layers_[t].edges[i].from] = marks_;
    }
}

void Ways::choose(std::size_t position) {
    if (found_.size() == most_) return;
    if (!found_.empty() && watch_.expired()) {
        whole_ = false;
        return;
    }
    if (position == order_.size()) {
        std::vector<std::size_t> taken(layers_.size());
        for (std::size_t t = 0; t < layers_.size(); ++t) taken[t] = layers_[t].edges.front().option;
        found_.push_back(std::move(taken));
        return;
    }
    const std::size_t stage = order_[position];
    const std::vector<Index>& index = search_.stages[stage].index;
    std::vector<std::pair<Index, std::uint32_t>> options;
    for (std::size_t i = 0; i < layers_[stage].alive; ++i) {
        const std::uint32_t option = layers_[stage].edges[i].option;
        options.emplace_back(index[option], option);
    }
    std::sort(options.begin(), options.end());
    options.erase(std::unique(options.begin(), options.end()), options.end());
    if (options.size() == 1) return choose(position + 1);
    std::vector<std::size_t> alive(layers_.size());
    for (std::size_t t = 0; t < layers_.size(); ++t) alive[t] = layers_[t].alive;
    for (const auto& [_, option] : options) {
        if (found_.size() == most_) return;
        keepIf(stage, [wanted = option](const Edge& edge) { return edge.option == wanted; });
        prune();
        choose(position + 1);
        for (std::size_t t = 0; t < layers_.size(); ++t) layers_[t].alive = alive[t];
    }
}

std::vector<std::vector<std::size_t>> Ways::list(std::size_t most) {
    most_ = most;
    choose(0);
    return std::move(found_);
}

}  // namespace

NearTrace traceNear(const NearSearch& search, std::size_t state, std::size_t most, Watch& watch) {
    if (search.stages.empty()) return {{{}}, true};
    Ways ways(search, state, watch);
    NearTrace trace;
    trace.taken = ways.list(most);
    trace.whole = ways.whole();
    return trace;
}

}  // namespace rdprune
