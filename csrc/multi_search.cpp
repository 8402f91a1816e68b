#include "multi_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "buffer.h"
#include "multi_states.h"
#include "multipliers.h"
#include "trace_back.h"

namespace rdprune {

namespace {

constexpr double relativeMargin = 0x1p-44;                  // for one option
constexpr double roundingMargin = 0x1p-49;                  // for each term of a running sum
constexpr std::size_t stepsBetween = std::size_t{1} << 12;  // two looks at the limits

struct Stage {
    std::size_t cls = 0;
    double size = 0.0;  // largest |value| + lambda |cost|
    std::vector<std::size_t> option;
    std::vector<Index> index;  // of the options inside the layer
    std::vector<Cost> cost;    // options x dimensions, relative to the base
    std::vector<Value> value;  // relative to the base
    std::vector<double> reduced;
};

// For one budget and the classes to come: least sum of r + lambda (left - cost) for each cost left.
struct Curve {
    std::span<const Cost> cost;
    std::span<const double> value;

    // At costs left below the first knot the budget is out of reach.
    [[nodiscard]] double operator()(Cost left) const {
        if (left < cost.front()) return std::numeric_limits<double>::infinity();
        const auto next = std::upper_bound(cost.begin(), cost.end(), left) - cost.begin();
        const auto i = static_cast<std::size_t>(next - 1);
        if (i + 1 == cost.size()) return value[i];
        const double share =
            static_cast<double>(left - cost[i]) / static_cast<double>(cost[i + 1] - cost[i]);
        return value[i] + share * (value[i + 1] - value[i]);
    }
};

struct Slope {
    Cost cost;
    double value;
};

struct Search {
    std::size_t dimensions = 1;
    double gap = 0.0;
    double margin = 0.0;
    bool cut = false;
    std::vector<Stage> stages;
    std::vector<std::vector<Curve>> curves;  // after each stage, a dimension
    Buffer<Cost> knots;                      // of all curves
    Buffer<double> knotValues;
    std::size_t held = 0;  // bytes, without the list under way
    Watch* watch = nullptr;

    [[nodiscard]] std::size_t stateBytes() const {
        return dimensions * sizeof(Cost) + sizeof(Value);
    }
    // Of a list under way, for each state: with the gap and the order.
    [[nodiscard]] std::size_t growingBytes() const {
        return stateBytes() + sizeof(double) + sizeof(std::size_t);
    }
    // Of a list that is being thinned out, for each state kept.
    [[nodiscard]] std::size_t keptBytes() const { return stateBytes() + Stairs::stepBytes; }
    void check(std::size_t bytes) const { watch->check(held + bytes); }
};

double priced(const std::vector<double>& multipliers, const Cost* cost) {
    double sum = 0.0;
    for (std::size_t d = 0; d < multipliers.size(); ++d)
        sum += multipliers[d] * static_cast<double>(cost[d]);
    return sum;
}

// Lower hull of one class's (cost_d, r - lambda_d cost_d), falling part only, as slopes.
std::vector<Slope> fallingHull(const Search& search, const Stage& stage, std::size_t d,
                               double multiplier, Slope& start) {
    std::size_t steps = 0;
    std::vector<Slope> points;
    for (std::size_t i = 0; i < stage.value.size(); ++i) {
        const Cost cost = stage.cost[i * search.dimensions + d];
        points.push_back({cost, stage.reduced[i] - multiplier * static_cast<double>(cost)});
    }
    std::sort(points.begin(), points.end(), [&](const Slope& a, const Slope& b) {
        if (++steps % stepsBetween == 0) search.check(0);
        return a.cost != b.cost ? a.cost < b.cost : a.value < b.value;
    });
    std::vector<Slope> hull;
    for (const Slope& point : points) {
        if (!hull.empty() && point.value >= hull.back().value) continue;
        while (hull.size() > 1) {
            const Slope& a = hull[hull.size() - 2];
            const Slope& b = hull.back();
            if ((b.value - a.value) * static_cast<double>(point.cost - b.cost) <
                (point.value - b.value) * static_cast<double>(b.cost - a.cost))
                break;
            hull.pop_back();
        }
        hull.push_back(point);
    }
    start = hull.front();
    std::vector<Slope> slopes;
    for (std::size_t i = 1; i < hull.size(); ++i)
        slopes.push_back({hull[i].cost - hull[i - 1].cost, hull[i].value - hull[i - 1].value});
    return slopes;
}

// Relaxations after every stage, from the last one back.
void buildCurves(Search& search, const std::vector<double>& multipliers) {
    const std::size_t stages = search.stages.size();
    std::vector<std::size_t> starts;  // of the curves, dimension by dimension, last stage first
    std::size_t end = 0;
    for (std::size_t d = 0; d < search.dimensions; ++d) {
        std::vector<Slope> slopes;  // of all classes to come, steepest first
        Slope start{0, 0.0};
        for (std::size_t t = stages + 1; t-- > 0;) {
            search.check(0);
            if (t < stages) {
                Slope first{0, 0.0};
                auto added = fallingHull(search, search.stages[t], d, multipliers[d], first);
                start.cost += first.cost;
                start.value += first.value;
                const auto middle = static_cast<std::ptrdiff_t>(slopes.size());
                slopes.insert(slopes.end(), added.begin(), added.end());
                std::inplace_merge(slopes.begin(), slopes.begin() + middle, slopes.end(),
                                   [](const Slope& a, const Slope& b) {
                                       return a.value * static_cast<double>(b.cost) <
                                              b.value * static_cast<double>(a.cost);
                                   });
            }
            starts.push_back(end);
            const std::size_t knots = slopes.size() + 1;
            search.held += knots * (sizeof(Cost) + sizeof(double));
            search.knots.reserve(end + knots);
            search.knotValues.reserve(end + knots);
            search.knots[end] = start.cost;
            search.knotValues[end++] = start.value;
            for (const Slope& slope : slopes) {
                search.knots[end] = search.knots[end - 1] + slope.cost;
                search.knotValues[end] = search.knotValues[end - 1] + slope.value;
                ++end;
            }
        }
    }
    starts.push_back(end);
    search.curves.assign(stages + 1, std::vector<Curve>(search.dimensions));
    for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
        const std::size_t knots = starts[i + 1] - starts[i];
        search.curves[stages - i % (stages + 1)][i / (stages + 1)] = {
            {search.knots.data() + starts[i], knots},
            {search.knotValues.data() + starts[i], knots}};
    }
}

Search prepare(const Problem& problem, const LagrangianBase& base, double gap, Watch& watch) {
    Search search;
    search.watch = &watch;
    search.dimensions = problem.dimensions;
    search.gap = gap;
    const std::size_t dimensions = problem.dimensions;
    double scale = std::abs(base.bound);
    double whole = scale + lagrangianScale(problem, base.multipliers);
    for (std::size_t d = 0; d < problem.dimensions; ++d)
        whole += base.multipliers[d] * std::abs(static_cast<double>(base.slack[d]));
    const double cutMargin = relativeMargin * (whole + (std::isinf(gap) ? 0.0 : gap));
    std::vector<Cost> cost(dimensions);
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        search.check(0);
        Stage stage;
        stage.cls = cls;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            double size = 0.0;
            for (std::size_t d = 0; d < dimensions; ++d) {
                cost[d] = problem.costs[i * dimensions + d] -
                          problem.costs[base.option[cls] * dimensions + d];
                size += base.multipliers[d] * std::abs(static_cast<double>(cost[d]));
            }
            const Value value = problem.values[i] - problem.values[base.option[cls]];
            const double reduced = toDouble(value) + priced(base.multipliers, cost.data());
            size += std::abs(toDouble(value));
            if (reduced > gap + cutMargin) {
                search.cut = true;
                continue;
            }
            stage.option.push_back(i);
            stage.index.push_back(problem.options[i]);
            stage.cost.insert(stage.cost.end(), cost.begin(), cost.end());
            stage.value.push_back(value);
            stage.reduced.push_back(reduced);
            stage.size = std::max(stage.size, size);
        }
        if (stage.option.size() == 1) continue;
        scale += stage.size;
        search.stages.push_back(std::move(stage));
    }
    for (std::size_t d = 0; d < dimensions; ++d)
        scale += base.multipliers[d] * std::abs(static_cast<double>(base.slack[d]));
    search.margin = roundingMargin * static_cast<double>(32 + problem.values.size()) * scale;
    std::stable_sort(search.stages.begin(), search.stages.end(),
                     [](const Stage& a, const Stage& b) { return a.size > b.size; });
    buildCurves(search, base.multipliers);
    return search;
}

// Smallest possible value - bound of any allocation that the state leads to.
double leastGap(const Search& search, const LagrangianBase& base, std::size_t stages,
                const Cost* cost, double reduced) {
    double rest = 0.0;
    for (std::size_t d = 0; d < search.dimensions; ++d) {
        const Cost left = base.slack[d] - cost[d];
        rest = std::max(
            rest, search.curves[stages][d](left) + base.multipliers[d] * static_cast<double>(left));
    }
    return reduced + rest;
}

// All states one stage on that stay within the gap, in no order.
void expand(Search& search, const LagrangianBase& base, std::size_t t, const States& before,
            Scratch& scratch) {
    const std::size_t dimensions = search.dimensions;
    const Stage& stage = search.stages[t];
    Growing& after = scratch.states;
    std::vector<Cost> cost(dimensions);
    after.clear();
    std::size_t steps = 0;
    for (std::size_t s = 0; s < before.size(); ++s)
        for (std::size_t i = 0; i < stage.value.size(); ++i) {
            if (++steps % stepsBetween == 0) {
                scratch.most = std::max(scratch.most, after.size());
                search.check(scratch.most * search.growingBytes());
            }
            for (std::size_t d = 0; d < dimensions; ++d)
                cost[d] = before.cost[s * dimensions + d] + stage.cost[i * dimensions + d];
            const Value value = before.value[s] + stage.value[i];
            const double reduced = toDouble(value) + priced(base.multipliers, cost.data());
            const double least = leastGap(search, base, t + 1, cost.data(), reduced);
            if (std::isinf(least)) continue;
            if (least > search.gap + search.margin) {
                search.cut = true;
                continue;
            }
            scratch.gaps.reserve(after.size() + 1);
            scratch.gaps[after.size()] = least;
            after.append(cost.data(), value);
        }
    scratch.most = std::max(scratch.most, after.size());
}

// Sorts the states and drops the dominated ones and, with a beam, all but the most promising; the rest
// is the next list.
void thinOut(const Search& search, Scratch& scratch, std::size_t beam, Lists& lists) {
    const std::size_t dimensions = search.dimensions;
    const States states = scratch.states.from(0, scratch.states.size());
    const std::size_t first = lists.states.size();
    const auto size = [&] { return lists.states.size() - first; };
    std::size_t steps = 0;
    const auto look = [&] {
        if (++steps % stepsBetween == 0)
            search.check(scratch.most * search.growingBytes() + size() * search.keptBytes());
    };
    scratch.order.reserve(states.size());
    std::span<std::size_t> order(scratch.order.data(), states.size());
    for (std::size_t s = 0; s < order.size(); ++s) {
        look();
        order[s] = s;
    }
    if (beam > 0 && order.size() > beam) {
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            look();
            return scratch.gaps[a] < scratch.gaps[b];
        });
        order = order.first(beam);
    }
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        look();
        const Cost* const left = states.cost.data() + a * dimensions;
        const Cost* const right = states.cost.data() + b * dimensions;
        for (std::size_t d = 0; d < dimensions; ++d)
            if (left[d] != right[d]) return left[d] < right[d];
        return states.value[a] < states.value[b];
    });
    Dominance dominance(dimensions);
    for (const std::size_t s : order) {
        look();
        const States kept = lists.states.from(first, first + size());
        const auto row = states.row(s, dimensions);
        const bool equal = size() > 0 && std::ranges::equal(row, kept.row(size() - 1, dimensions));
        if (equal || dominance.dominated(kept, row, states.value[s])) continue;
        lists.states.append(row.data(), states.value[s]);
    }
    lists.close();
}

// The final state of least value, then least costs; rows are ascending, so the first one found.
std::size_t bestState(const States& states) {
    return static_cast<std::size_t>(std::min_element(states.value.begin(), states.value.end()) -
                                    states.value.begin());
}

void searchStages(Search& search, const LagrangianBase& base, std::size_t beam, Lists& lists,
                  std::size_t& found) {
    Scratch scratch(search.dimensions);
    for (std::size_t t = 0; t < search.stages.size(); ++t) {
        search.check(0);
        expand(search, base, t, lists[t], scratch);
        thinOut(search, scratch, beam, lists);
        search.held += lists.back().size() * search.stateBytes();
        found += lists.back().size();
    }
    scratch.giveBack(*search.watch);
}

// The search itself; throws LimitReached.
MultiSearch searchLists(const Problem& problem, const LagrangianBase& base, double gap,
                        std::size_t beam, Search& search, Lists& lists, std::size_t& states) {
    MultiSearch result;
    Watch& watch = *search.watch;
    const std::size_t dimensions = problem.dimensions;
    lists.states.append(std::vector<Cost>(dimensions, 0).data(), 0);
    lists.close();
    // Without a stage there is one allocation, which must keep the budgets too.
    if (std::isinf(leastGap(search, base, 0, lists[0].cost.data(), 0.0))) {
        result.cut = search.cut;
        return result;
    }
    searchStages(search, base, beam, lists, states);
    result.cut = search.cut;
    const States last = lists.back();
    if (last.size() == 0) return result;
    const std::size_t best = bestState(last);
    const auto cost = last.row(best, dimensions);
    result.gap = std::max(toDouble(last.value[best]) - base.bound, 0.0);
    if (beam == 0 && result.gap > gap) {
        result.cut = true;  // kept by the rounding margin alone
        return result;
    }
    result.outcome = MultiSearch::Outcome::found;
    result.value = base.value + last.value[best];
    result.option = base.option;
    std::vector<TraceStage> trace(search.stages.size());
    for (std::size_t t = 0; t < trace.size(); ++t) {
        const Stage& stage = search.stages[t];
        trace[t] = {stage.cls, stage.cost, stage.value, stage.index, lists[t].cost, lists[t].value};
    }
    const std::vector<std::size_t> taken = traceBack(trace, cost, last.value[best], watch);
    for (std::size_t t = 0; t < trace.size(); ++t)
        result.option[search.stages[t].cls] = search.stages[t].option[taken[t]];
    return result;
}

}  // namespace

MultiSearch searchVectors(const Problem& problem, const LagrangianBase& base, double gap,
                          std::size_t beam, Watch& watch) {
    MultiSearch result;
    std::size_t states = 0;
    try {  // what a limit ends is given back while its exception is under way (release.h)
        Search search = prepare(problem, base, gap, watch);
        Lists lists(problem.dimensions);
        result = searchLists(problem, base, gap, beam, search, lists, states);
        lists.states.giveBack(watch);
        search.knots.giveBack(watch);
        search.knotValues.giveBack(watch);
    } catch (const LimitReached&) {
        result.outcome = MultiSearch::Outcome::limit;
    }
    result.states = states;
    return result;
}

}  // namespace rdprune
