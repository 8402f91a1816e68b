#include "list_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "trace_back.h"

namespace rdprune {

namespace {

constexpr double relativeMargin = 0x1p-44;
constexpr std::size_t stateBytes = sizeof(Cost) + sizeof(Value);

double reducedCost(double multiplier, Cost cost, Value value) {
    return toDouble(value) + multiplier * static_cast<double>(cost);
}

// The options of one class that survive the first cut, relative to its base option.
struct Stage {
    std::size_t cls = 0;
    std::vector<std::size_t> option;
    std::vector<Cost> cost;  // ascending
    std::vector<Value> value;

    [[nodiscard]] Cost span() const { return cost.back() - cost.front(); }
};

// Parallel arrays, cost strictly ascending and value strictly descending.
struct StateList {
    std::vector<Cost> cost;
    std::vector<Value> value;

    void clear() {
        cost.clear();
        value.clear();
    }
    void push(Cost c, Value v) {
        cost.push_back(c);
        value.push_back(v);
    }
    [[nodiscard]] std::size_t size() const { return cost.size(); }
};

// Hull segments of all stages on one side of the base, nearest to the base first.
struct Side {
    struct Entry {
        Segment segment;
        std::size_t stage;
    };
    std::vector<Entry> entries;
};

struct Search {
    double multiplier = 0.0;
    Cost slack = 0;
    Value target = 0;
    double cut = 0.0;           // target plus the rounding margin
    std::vector<Stage> stages;  // widest range of costs first
    std::size_t mostOptions = 1;
    Side right;  // more cost than the base, less value
    Side left;   // less cost, more value
};

void collectSegments(Search& search) {
    std::vector<Segment> segments;
    for (std::size_t t = 0; t < search.stages.size(); ++t) {
        const Stage& stage = search.stages[t];
        segments.clear();
        appendHull(stage.cost, stage.value, stage.cls, 0, segments);
        for (const Segment& segment : segments) {
            Side& side = stage.cost[segment.to] > 0 ? search.right : search.left;
            side.entries.push_back({segment, t});
        }
    }
    std::stable_sort(search.right.entries.begin(), search.right.entries.end(),
                     [](const Side::Entry& a, const Side::Entry& b) {
                         return a.segment.efficiency > b.segment.efficiency;
                     });
    std::stable_sort(search.left.entries.begin(), search.left.entries.end(),
                     [](const Side::Entry& a, const Side::Entry& b) {
                         return a.segment.efficiency < b.segment.efficiency;
                     });
}

Search prepare(const Problem& problem, const Base& base, const std::vector<double>& reduced,
               Value target) {
    Search search;
    search.multiplier = base.multiplier;
    search.slack = base.slack;
    search.target = target;
    // Never negative but for rounding, which must not cut the base itself.
    const double gap = std::max(reducedCost(base.multiplier, base.slack, target), 0.0);
    double scale = 0.0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        Stage stage;
        stage.cls = cls;
        const std::size_t origin = base.option[cls];
        double largest = 0.0;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            if (reduced[i] > gap) {
                const Cost cost = problem.costs[i] - problem.costs[origin];
                const double size = std::abs(static_cast<double>(cost)) * base.multiplier;
                if (reduced[i] > gap + relativeMargin * (size + std::abs(gap))) continue;
            }
            const Cost cost = problem.costs[i] - problem.costs[origin];
            const Value value = problem.values[i] - problem.values[origin];
            stage.option.push_back(i);
            stage.cost.push_back(cost);
            stage.value.push_back(value);
            largest = std::max(largest, std::abs(toDouble(value)) +
                                            base.multiplier * std::abs(static_cast<double>(cost)));
        }
        if (stage.option.size() == 1) continue;
        scale += largest;
        search.mostOptions = std::max(search.mostOptions, stage.option.size());
        search.stages.push_back(std::move(stage));
    }
    std::stable_sort(search.stages.begin(), search.stages.end(),
                     [](const Stage& a, const Stage& b) { return a.span() > b.span(); });
    collectSegments(search);
    const double margin =
        relativeMargin * (scale + base.multiplier * static_cast<double>(base.slack));
    search.cut = toDouble(target) + margin;
    return search;
}
// The linear relaxation of the stages to come: least value for each cost left, as knots with cost
// ascending.
struct Knot {
    Cost cost;
    double value;
    double efficiency;  // towards the next knot
};

// Knots that cover [low, high] as far as the segments reach; empty if `high` is out of reach.
void coverKnots(const Search& search, std::size_t stage, Cost low, Cost high,
                std::vector<Knot>& knots) {
    knots.clear();
    Cost cost = 0;
    Value value = 0;
    for (const Side::Entry& entry : search.left.entries) {
        if (cost <= low) break;
        if (entry.stage <= stage) continue;
        cost -= entry.segment.cost;
        value += entry.segment.value;
        knots.push_back({cost, toDouble(value), entry.segment.efficiency});
    }
    std::reverse(knots.begin(), knots.end());
    cost = 0;
    value = 0;
    knots.push_back({0, 0.0, 0.0});
    for (const Side::Entry& entry : search.right.entries) {
        if (cost >= high) break;
        if (entry.stage <= stage) continue;
        knots.back().efficiency = entry.segment.efficiency;
        cost += entry.segment.cost;
        value -= entry.segment.value;
        knots.push_back({cost, toDouble(value), 0.0});
    }
}

// Copies the states of `merged` that may still reach the target to `kept`, with their bounds.
void keepPromising(const Search& search, std::size_t stage, const StateList& merged,
                   std::vector<Knot>& knots, StateList& kept, std::vector<double>& bounds) {
    kept.clear();
    bounds.clear();
    if (merged.size() == 0) return;
    coverKnots(search, stage, search.slack - merged.cost.back(), search.slack - merged.cost[0],
               knots);
    std::size_t knot = knots.size() - 1;
    for (std::size_t i = 0; i < merged.size(); ++i) {
        const Cost left = search.slack - merged.cost[i];
        while (knot > 0 && knots[knot].cost > left) --knot;
        if (knots[knot].cost > left) break;
        const double rest = knots[knot].value -
                            knots[knot].efficiency * static_cast<double>(left - knots[knot].cost);
        const double bound = toDouble(merged.value[i]) + rest;
        if (bound > search.cut) continue;
        kept.push(merged.cost[i], merged.value[i]);
        bounds.push_back(bound);
    }
}

// Merges two lists, dropping what is dominated.
void merge(const StateList& a, const StateList& b, StateList& out) {
    const std::size_t capacity = a.size() + b.size();
    out.cost.resize(capacity);
    out.value.resize(capacity);
    Cost* const costs = out.cost.data();
    Value* const values = out.value.data();
    std::size_t i = 0;
    std::size_t j = 0;
    std::size_t n = 0;
    const auto push = [&](Cost c, Value v) {
        if (n > 0 && values[n - 1] <= v) return;
        if (n > 0 && costs[n - 1] == c) --n;
        costs[n] = c;
        values[n] = v;
        ++n;
    };
    while (i < a.size() && j < b.size()) {
        if (a.cost[i] <= b.cost[j]) {
            push(a.cost[i], a.value[i]);
            ++i;
        } else {
            push(b.cost[j], b.value[j]);
            ++j;
        }
    }
    for (; i < a.size(); ++i) push(a.cost[i], a.value[i]);
    for (; j < b.size(); ++j) push(b.cost[j], b.value[j]);
    out.cost.resize(n);
    out.value.resize(n);
}

// All extensions of a list by the stage's options first, first + 1, ..., last - 1, by halves.
// `pool` holds two lists a level of the recursion, so that no merge allocates in the long run.
void extend(const StateList& before, const Stage& stage, std::size_t first, std::size_t last,
            std::size_t level, std::vector<StateList>& pool, StateList& out) {
    if (last - first == 1) {
        out.cost.resize(before.size());
        out.value.resize(before.size());
        for (std::size_t i = 0; i < before.size(); ++i)
            out.cost[i] = before.cost[i] + stage.cost[first];
        for (std::size_t i = 0; i < before.size(); ++i)
            out.value[i] = before.value[i] + stage.value[first];
        return;
    }
    const std::size_t middle = first + (last - first) / 2;
    extend(before, stage, first, middle, level + 1, pool, pool[2 * level]);
    extend(before, stage, middle, last, level + 1, pool, pool[2 * level + 1]);
    merge(pool[2 * level], pool[2 * level + 1], out);
}

void keepBest(StateList& list, std::vector<double> bounds, std::size_t beam) {
    if (list.size() <= beam) return;
    const std::vector<double> original = bounds;
    const auto last = bounds.begin() + static_cast<std::ptrdiff_t>(beam);
    std::nth_element(bounds.begin(), last, bounds.end());
    const double threshold = *last;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < list.size() && kept < beam; ++i) {
        if (original[i] > threshold) continue;
        list.cost[kept] = list.cost[i];
        list.value[kept] = list.value[i];
        ++kept;
    }
    list.cost.resize(kept);
    list.value.resize(kept);
}

}  // namespace

std::vector<double> reducedCosts(const Problem& problem, const Base& base) {
    std::vector<double> reduced(problem.values.size());
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t origin = base.option[cls];
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i)
            reduced[i] = reducedCost(base.multiplier, problem.costs[i] - problem.costs[origin],
                                     problem.values[i] - problem.values[origin]);
    }
    return reduced;
}

ListSearch searchLists(const Problem& problem, const Base& base, const std::vector<double>& reduced,
                       Value target, std::size_t beam, Watch& watch) {
    const Search search = prepare(problem, base, reduced, target);
    ListSearch result;
    std::vector<StateList> lists(search.stages.size() + 1);
    lists[0].push(0, 0);
    StateList merged;
    std::vector<StateList> pool(2 * std::bit_width(search.mostOptions));
    std::vector<Knot> knots;
    std::vector<double> bounds;
    for (std::size_t t = 0; t < search.stages.size(); ++t) {
        const Stage& stage = search.stages[t];
        const std::size_t most = lists[t].size() * stage.option.size();
        if ((result.states + 2 * most) * stateBytes > watch.bytes() || watch.expired()) {
            result.outcome = ListSearch::Outcome::limit;
            return result;
        }
        extend(lists[t], stage, 0, stage.option.size(), 0, pool, merged);
        keepPromising(search, t, merged, knots, lists[t + 1], bounds);
        if (beam > 0) keepBest(lists[t + 1], bounds, beam);
        result.states += lists[t + 1].size();
    }
    const StateList& last = lists.back();
    if (last.size() == 0 || last.value.back() > target) return result;
    result.outcome = ListSearch::Outcome::found;
    result.value = last.value.back();
    result.option = base.option;
    std::vector<TraceStage> trace(search.stages.size());
    for (std::size_t t = 0; t < trace.size(); ++t) {
        const Stage& stage = search.stages[t];
        trace[t] = {stage.cls, stage.cost, stage.value, {}, lists[t].cost, lists[t].value};
        for (const std::size_t option : stage.option)
            trace[t].index.push_back(problem.options[option]);
    }
    const std::vector<std::size_t> taken =
        traceBack(trace, std::span(last.cost).last(1), last.value.back());
    for (std::size_t t = 0; t < trace.size(); ++t)
        result.option[search.stages[t].cls] = search.stages[t].option[taken[t]];
    return result;
}

}  // namespace rdprune
