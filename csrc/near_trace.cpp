#include "near_trace.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "numbering.h"

namespace rdprune {

namespace {

constexpr std::size_t maxEdges = std::size_t{1} << 22;
constexpr std::size_t leastEdges = std::size_t{1} << 16;  // whatever the limit
constexpr std::size_t edgeBytes = 128;                    // of the limit, for an edge and its node
constexpr std::size_t checkEvery = std::size_t{1} << 14;

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

struct Change {
    std::size_t stage;
    std::size_t alive;  // before it
};

// An option that is still to be taken.
struct Fork {
    std::size_t position;  // in the order of classes
    std::uint32_t option;
    std::size_t changes;  // that were made before it
};

class Ways {
public:
    Ways(const NearSearch& search, std::size_t state, Watch& watch);

    [[nodiscard]] bool whole() const { return whole_; }
    void list(std::size_t most, const FoundChoice& found);

private:
    void collect(std::size_t stage, std::vector<std::size_t>& nodes);
    template <typename Keep>
    bool keepIf(std::size_t stage, Keep&& keep);
    bool keepReached(std::size_t stage);
    bool keepLeading(std::size_t stage);
    bool fork(std::size_t position);
    void take(const Fork& fork);

    const NearSearch& search_;
    Watch& watch_;
    std::vector<Layer> layers_;
    std::uint32_t marks_ = 0;
    std::size_t left_;
    bool whole_ = true;
    std::vector<std::size_t> order_;  // stages by class
    std::vector<Change> changes_;     // in the order in which they were made
    std::vector<Fork> forks_;         // the next one last
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
    std::size_t steps = 0;
    watch_.check();
    for (std::size_t node = 0; node < nodes.size(); ++node) {
        if (left_ == 0 && !layer.edges.empty()) {
            whole_ = false;
            break;
        }
        for (std::size_t option = 0; option < rows.size(); ++option) {
            if (++steps % checkEvery == 0) watch_.check();
            const std::size_t position =
                findState(before, after.cost[nodes[node]] - rows.cost[option],
                          after.value[nodes[node]] - rows.value[option]);
            if (position == before.size()) continue;
            if (left_ == 0 && !layer.edges.empty()) {
                whole_ = false;
                break;
            }
            left_ -= std::min<std::size_t>(left_, 1);
            layer.edges.push_back({static_cast<std::uint32_t>(position),
                                   static_cast<std::uint32_t>(node),
                                   static_cast<std::uint32_t>(option)});
            found.push_back(position);
        }
    }
    Numbering numbering(std::move(found), before.size(), watch_);
    for (std::size_t i = 0; i < layer.edges.size(); ++i) {
        if (i % checkEvery == 0) watch_.check();
        layer.edges[i].from = static_cast<std::uint32_t>(numbering.numberOf(layer.edges[i].from));
    }
    layer.alive = layer.edges.size();
    nodes = std::move(numbering).ascending();
    layer.mark.assign(nodes.size(), 0);
}

Ways::Ways(const NearSearch& search, std::size_t state, Watch& watch)
    : search_(search),
      watch_(watch),
      layers_(search.stages.size()),
      left_(std::clamp(watch.bytes() / edgeBytes, leastEdges, maxEdges)) {
    std::vector<std::size_t> nodes{state};
    for (std::size_t t = layers_.size(); t-- > 0;) collect(t, nodes);
    if (!whole_) {  // where edges were left out there are dead ends towards the start
        ++marks_;
        for (std::size_t t = 0; t < layers_.size(); ++t) keepReached(t);
        changes_.clear();
    }
    order_.resize(layers_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
        return search.stages[a].cls < search.stages[b].cls;
    });
}

// False if that drops nothing.
template <typename Keep>
bool Ways::keepIf(std::size_t stage, Keep&& keep) {
    watch_.check();
    Layer& layer = layers_[stage];
    const auto begin = layer.edges.begin();
    const auto end = begin + static_cast<std::ptrdiff_t>(layer.alive);
    const auto kept = static_cast<std::size_t>(std::partition(begin, end, keep) - begin);
    if (kept == layer.alive) return false;
    changes_.push_back({stage, std::exchange(layer.alive, kept)});
    return true;
}

// Keeps the edges of the next stage that start where an edge of this one ends.
bool Ways::keepReached(std::size_t stage) {
    if (stage + 1 == layers_.size()) return false;
    std::vector<std::uint32_t>& mark = layers_[stage + 1].mark;
    for (std::size_t i = 0; i < layers_[stage].alive; ++i)
        mark[layers_[stage].edges[i].to] = marks_;
    return keepIf(stage + 1, [&](const Edge& edge) { return mark[edge.from] == marks_; });
}

// Keeps the edges of the stage before that end where an edge of this one starts.
bool Ways::keepLeading(std::size_t stage) {
    if (stage == 0) return false;
    std::vector<std::uint32_t>& mark = layers_[stage].mark;
    for (std::size_t i = 0; i < layers_[stage].alive; ++i)
        mark[layers_[stage].edges[i].from] = marks_;
    return keepIf(stage - 1, [&](const Edge& edge) { return mark[edge.to] == marks_; });
}

// Notes the options that are left at a position; false if there is only one.
bool Ways::fork(std::size_t position) {
    const Layer& layer = layers_[order_[position]];
    const std::vector<Index>& index = search_.stages[order_[position]].index;
    const auto begin = layer.edges.begin();
    const auto end = begin + static_cast<std::ptrdiff_t>(layer.alive);
    if (std::all_of(begin, end, [&](const Edge& edge) { return edge.option == begin->option; }))
        return false;
    std::vector<char> seen(index.size(), 0);
    std::for_each(begin, end, [&](const Edge& edge) { seen[edge.option] = 1; });
    const std::size_t first = forks_.size();
    for (std::size_t option = 0; option < seen.size(); ++option)
        if (seen[option])
            forks_.push_back({position, static_cast<std::uint32_t>(option), changes_.size()});
    std::sort(forks_.begin() + static_cast<std::ptrdiff_t>(first), forks_.end(),
              [&](const Fork& a, const Fork& b) { return index[a.option] > index[b.option]; });
    return true;
}

// Brings back what was dropped since the fork, and drops what does not agree with its option. Every edge
// lies on a whole way before, so stages beyond one that loses nothing lose nothing either.
void Ways::take(const Fork& fork) {
    for (; changes_.size() > fork.changes; changes_.pop_back())
        layers_[changes_.back().stage].alive = changes_.back().alive;
    const std::size_t stage = order_[fork.position];
    keepIf(stage, [&](const Edge& edge) { return edge.option == fork.option; });
    ++marks_;
    for (std::size_t t = stage; keepReached(t);) ++t;
    for (std::size_t t = stage; keepLeading(t);) --t;
}

void Ways::list(std::size_t most, const FoundChoice& found) {
    std::vector<std::size_t> taken(layers_.size());
    for (std::size_t position = 0, count = 0;;) {
        watch_.check();
        if (position < order_.size() && !fork(position)) {
            ++position;
            continue;
        }
        if (position == order_.size()) {
            for (std::size_t t = 0; t < taken.size(); ++t)
                taken[t] = layers_[t].edges.front().option;
            found(taken);
            if (++count == most || forks_.empty()) return;
        }
        const Fork next = forks_.back();
        forks_.pop_back();
        take(next);
        position = next.position + 1;
    }
}

}  // namespace

bool traceNear(const NearSearch& search, std::size_t state, std::size_t most, Watch& watch,
               const FoundChoice& found) {
    if (search.stages.empty()) {
        found({});
        return true;
    }
    Ways ways(search, state, watch);
    ways.list(most, found);
    return ways.whole();
}

}  // namespace rdprune
