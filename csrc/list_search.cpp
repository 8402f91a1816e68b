#include "list_search.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace rdprune {

namespace {

constexpr double relativeMargin = 0x1p-44;
constexpr std::size_t stateBytes = sizeof(Cost) + sizeof(Value);

double reducedCost(double multiplier, Cost cost, Value value) {
    return toDouble(value) + multiplier * static_cast<double>(cost);
}

// Fills in the options of every class that survive the first cut, widest range of costs first, and returns
// the sum over classes of max(|value| + lambda |cost|).
double collectStages(const Problem& problem, const Relaxation& relaxation, const Base& base,
                     double gap, Workspace& work) {
    struct Range {
        Cost span;
        std::uint32_t cls, first, last;
    };
    std::vector<Range> ranges;
    work.option.clear();
    double scale = 0.0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t first = problem.offsets[cls];
        const std::size_t last = problem.offsets[cls + 1];
        const std::size_t origin = base.option[cls];
        const double size =
            base.multiplier * relaxation.cost[last - 1] - relaxation.value[last - 1];
        const double most = relaxation.value[origin] + base.multiplier * relaxation.cost[origin] +
                            gap + relativeMargin * (2.0 * size + gap);
        const std::size_t begin = work.option.size();
        for (std::size_t i = first; i < last; ++i)
            if (relaxation.value[i] + base.multiplier * relaxation.cost[i] <= most)
                work.option.push_back(static_cast<std::uint32_t>(i));
        if (work.option.size() - begin <= 1) {
            work.option.resize(begin);
            continue;
        }
        scale += 2.0 * size;
        ranges.push_back({problem.costs[work.option.back()] - problem.costs[work.option[begin]],
                          static_cast<std::uint32_t>(cls), static_cast<std::uint32_t>(begin),
                          static_cast<std::uint32_t>(work.option.size())});
    }
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
        return a.span != b.span ? a.span > b.span : a.cls < b.cls;
    });
    work.stages.clear();
    work.cost.clear();
    work.value.clear();
    work.index.clear();
    for (const Range& range : ranges) {
        const std::size_t origin = base.option[range.cls];
        work.stages.push_back({range.cls, work.cost.size(), range.last - range.first, range.first});
        for (std::uint32_t i = range.first; i < range.last; ++i) {
            const std::uint32_t option = work.option[i];
            work.cost.push_back(problem.costs[option] - problem.costs[origin]);
            work.value.push_back(problem.values[option] - problem.values[origin]);
            work.index.push_back(problem.options[option]);
        }
    }
    return scale;
}

// Hull segments of all stages on either side of the base, nearest to the base first.
void collectSlopes(Workspace& work) {
    work.right.clear();
    work.left.clear();
    std::vector<Segment> segments;
    std::vector<double> costs;
    std::vector<double> values;
    for (std::uint32_t t = 0; t < work.stages.size(); ++t) {
        const Workspace::Stage& stage = work.stages[t];
        const std::span cost = std::span(work.cost).subspan(stage.first, stage.count);
        const std::span value = std::span(work.value).subspan(stage.first, stage.count);
        segments.clear();
        costs.clear();
        values.clear();
        for (std::size_t i = 0; i < stage.count; ++i) {
            costs.push_back(static_cast<double>(cost[i]));
            values.push_back(toDouble(value[i]));
        }
        appendHull(costs, values, segments);
        for (const Segment& segment : segments) {
            auto& side = cost[segment.to] > 0 ? work.right : work.left;
            side.push_back({segment.efficiency, cost[segment.to] - cost[segment.from],
                            value[segment.from] - value[segment.to], t});
        }
    }
    using Slope = Workspace::Slope;
    std::sort(work.right.begin(), work.right.end(), [](const Slope& a, const Slope& b) {
        return a.efficiency != b.efficiency ? a.efficiency > b.efficiency : a.stage < b.stage;
    });
    std::sort(work.left.begin(), work.left.end(), [](const Slope& a, const Slope& b) {
        return a.efficiency != b.efficiency ? a.efficiency < b.efficiency : a.stage < b.stage;
    });
}

// Fills in the relaxation of the stages after `stage`: least value for each cost left, as knots with
// ascending cost that cover [low, high] as far as the segments reach.
void coverKnots(Workspace& work, std::size_t stage, Cost low, Cost high) {
    auto& knots = work.knots;
    knots.clear();
    Cost cost = 0;
    Value value = 0;
    for (const Workspace::Slope& slope : work.left) {
        if (cost <= low) break;
        if (slope.stage <= stage) continue;
        cost -= slope.cost;
        value += slope.value;
        knots.push_back({cost, toDouble(value), slope.efficiency});
    }
    std::reverse(knots.begin(), knots.end());
    cost = 0;
    value = 0;
    knots.push_back({0, 0.0, 0.0});
    for (const Workspace::Slope& slope : work.right) {
        if (cost >= high) break;
        if (slope.stage <= stage) continue;
        knots.back().efficiency = slope.efficiency;
        cost += slope.cost;
        value -= slope.value;
        knots.push_back({cost, toDouble(value), 0.0});
    }
}

// Appends the merged states that may still end at or below `cut` as the list after `stage`.
void keepPromising(Workspace& work, std::size_t stage, Cost slack, double cut) {
    const StateList& merged = work.merged;
    work.bounds.clear();
    coverKnots(work, stage, slack - merged.cost.back(), slack - merged.cost.front());
    std::size_t knot = work.knots.size() - 1;
    for (std::size_t i = 0; i < merged.size(); ++i) {
        const Cost left = slack - merged.cost[i];
        while (knot > 0 && work.knots[knot].cost > left) --knot;
        if (work.knots[knot].cost > left) break;
        const double rest =
            work.knots[knot].value -
            work.knots[knot].efficiency * static_cast<double>(left - work.knots[knot].cost);
        const double bound = toDouble(merged.value[i]) + rest;
        if (bound > cut) continue;
        work.states.cost.push_back(merged.cost[i]);
        work.states.value.push_back(merged.value[i]);
        work.bounds.push_back(bound);
    }
}

// Merges two lists, dropping what is dominated.
void merge(const StateList& a, const StateList& b, StateList& out) {
    out.resize(a.size() + b.size());
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
    out.resize(n);
}

// The list from state `first` on, extended by options first, ..., first + count - 1 of the
// workspace, by halves. `pool` holds two lists for each level.
void extend(Workspace& work, std::size_t list, std::size_t option, std::size_t count,
            std::size_t level, StateList& out) {
    if (count == 1) {
        const std::size_t size = work.states.size() - list;
        out.resize(size);
        const Cost cost = work.cost[option];
        const Value value = work.value[option];
        for (std::size_t i = 0; i < size; ++i) out.cost[i] = work.states.cost[list + i] + cost;
        for (std::size_t i = 0; i < size; ++i) out.value[i] = work.states.value[list + i] + value;
        return;
    }
    StateList& left = work.pool[2 * level];
    StateList& right = work.pool[2 * level + 1];
    extend(work, list, option, count / 2, level + 1, left);
    extend(work, list, option + count / 2, count - count / 2, level + 1, right);
    merge(left, right, out);
}

// Keeps the `beam` states of least bound of the list that begins at state `first`.
void keepBest(Workspace& work, std::size_t first, std::size_t beam) {
    if (work.bounds.size() <= beam) return;
    std::vector<double> sorted = work.bounds;
    const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(beam);
    std::nth_element(sorted.begin(), last, sorted.end());
    std::size_t kept = first;
    for (std::size_t i = 0; i < work.bounds.size() && kept < first + beam; ++i) {
        if (work.bounds[i] > *last) continue;
        work.states.cost[kept] = work.states.cost[first + i];
        work.states.value[kept] = work.states.value[first + i];
        ++kept;
    }
    work.states.resize(kept);
}

// The options that the final state stands for.
std::vector<std::size_t> choose(const Workspace& work, const Base& base) {
    std::vector<TraceStage> trace;
    trace.reserve(work.stages.size());
    for (std::size_t t = 0; t < work.stages.size(); ++t) {
        const Workspace::Stage& stage = work.stages[t];
        const std::size_t first = work.lists[t];
        const std::size_t count = work.lists[t + 1] - first;
        trace.push_back({stage.cls, std::span(work.cost).subspan(stage.first, stage.count),
                         std::span(work.value).subspan(stage.first, stage.count),
                         std::span(work.index).subspan(stage.first, stage.count),
                         std::span(work.states.cost).subspan(first, count),
                         std::span(work.states.value).subspan(first, count)});
    }
    const std::vector<std::size_t> taken =
        traceBack(trace, std::span(work.states.cost).last(1), work.states.value.back());
    std::vector<std::size_t> option = base.option;
    for (std::size_t t = 0; t < work.stages.size(); ++t)
        option[work.stages[t].cls] = work.option[work.stages[t].option + taken[t]];
    return option;
}

}  // namespace

double undecidedGap(const Problem& problem, const Relaxation& relaxation, const Base& base,
                    std::size_t undecided) {
    std::vector<double> alternatives;
    alternatives.reserve(problem.size());
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t origin = base.option[cls];
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            const double priced = relaxation.value[i] + base.multiplier * relaxation.cost[i];
            if (i != origin) least = std::min(least, priced);
        }
        least -= relaxation.value[origin] + base.multiplier * relaxation.cost[origin];
        if (std::isfinite(least)) alternatives.push_back(std::max(least, 0.0));
    }
    if (alternatives.empty()) return 0.0;
    const auto rank = alternatives.begin() +
                      static_cast<std::ptrdiff_t>(std::min(undecided, alternatives.size() - 1));
    std::nth_element(alternatives.begin(), rank, alternatives.end());
    return *rank;
}

ListSearch searchLists(const Problem& problem, const Relaxation& relaxation, const Base& base,
                       Value target, const Effort& effort, Workspace& work, Watch& watch) {
    // Never negative but for rounding, which must not cut the base itself.
    const double gap = std::max(reducedCost(base.multiplier, base.slack, target), 0.0);
    const double scale = collectStages(problem, relaxation, base, gap, work);
    collectSlopes(work);
    const double cut = toDouble(target) +
                       relativeMargin * (scale + base.multiplier * static_cast<double>(base.slack));
    std::size_t mostOptions = 1;
    for (const Workspace::Stage& stage : work.stages)
        mostOptions = std::max(mostOptions, stage.count);
    work.pool.resize(std::max(work.pool.size(), std::size_t{2} * std::bit_width(mostOptions) + 2));

    ListSearch result;
    work.states.resize(1);
    work.states.cost[0] = 0;
    work.states.value[0] = 0;
    work.lists.assign(1, 0);
    for (std::size_t t = 0; t < work.stages.size(); ++t) {
        const Workspace::Stage& stage = work.stages[t];
        const std::size_t first = work.lists.back();
        const std::size_t most = (work.states.size() - first) * stage.count;
        if (work.states.size() > effort.states ||
            (work.states.size() + 2 * most) * stateBytes > watch.bytes() || watch.expired()) {
            result.states = work.states.size();
            result.outcome = ListSearch::Outcome::limit;
            return result;
        }
        extend(work, first, stage.first, stage.count, 0, work.merged);
        work.lists.push_back(work.states.size());
        keepPromising(work, t, base.slack, cut);
        keepBest(work, work.lists.back(), effort.beam);
        if (work.states.size() == work.lists.back()) break;
    }
    result.states = work.states.size();
    const bool whole = work.states.size() > work.lists.back();
    if (!whole || work.states.value.back() > target) return result;
    result.outcome = ListSearch::Outcome::found;
    result.value = work.states.value.back();
    result.option = choose(work, base);
    return result;
}

}  // namespace rdprune
