#include "near_search.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "hull.h"

namespace rdprune {

namespace {

constexpr double relativeMargin = 0x1p-44;
constexpr std::size_t pollEvery = std::size_t{1} << 15;

// Counts, while states come in ascending order of cost, those that dominate the next one.
class Rank {
public:
    explicit Rank(std::uint32_t most) : most_(most) {}

    // Whether `most` ways or more have come before with a value no larger.
    [[nodiscard]] bool dominates(Value value) const {
        return total_ >= most_ && least_.front().first <= value;
    }
    void push(Value value, std::uint32_t ways) {
        least_.emplace_back(value, ways);
        std::push_heap(least_.begin(), least_.end());
        total_ += ways;
        while (total_ - least_.front().second >= most_) {
            total_ -= least_.front().second;
            std::pop_heap(least_.begin(), least_.end());
            least_.pop_back();
        }
    }

private:
    std::uint64_t most_;
    std::uint64_t total_ = 0;
    std::vector<std::pair<Value, std::uint32_t>> least_;  // a heap, the largest value in front
};

struct Slope {  // a hull segment: more cost, less value
    double efficiency;
    Cost cost;
    Value value;
    std::size_t stage;
};

struct Knot {
    Cost cost;
    double value;
    double efficiency;  // towards the next knot
};

// One search under way.
class Search {
public:
    Search(const Problem& problem, const NearBase& base, Value target, const NearEffort& effort,
           Watch& watch)
        : problem_(problem),
          base_(base),
          target_(target),
          effort_(effort),
          watch_(watch),
          pace_(watch) {}

    NearSearch run();

private:
    double collectStages();
    NearStage collectStage(std::size_t cls, double most);
    void collectSlopes();
    void coverKnots(std::size_t stage);
    NearList keepPromising(const NearList& merged);
    void merge(const NearList& a, const NearList& b, NearList& out);
    void hold(NearList& list, std::size_t size);
    void require(std::size_t bytes);
    void searchStages();
    void extend(const NearList& list, const NearList& rows, std::size_t first, std::size_t count,
                std::size_t level, NearList& out);

    const Problem& problem_;
    const NearBase& base_;
    const Value target_;
    const NearEffort& effort_;
    Watch& watch_;
    Pace pace_;
    NearSearch result_;
    double cut_ = 0.0;
    std::vector<Slope> slopes_;  // of all stages, steepest first
    std::vector<Knot> knots_;
    std::vector<NearList> pool_;  // two lists for each level of `extend`
    std::size_t held_ = 0;        // bytes of the pool and the list under way
};

// Options of the class whose reduced cost is at most `most`, in order of cost, value and index,
// without those that enough others dominate.
NearStage Search::collectStage(std::size_t cls, double most) {
    const std::size_t origin = base_.option[cls];
    std::vector<std::size_t> order;
    pace_.expiredAfter(problem_.offsets[cls + 1] - problem_.offsets[cls]);
    for (std::size_t i = problem_.offsets[cls]; i < problem_.offsets[cls + 1]; ++i) {
        const double reduced =
            toDouble(problem_.values[i] - problem_.values[origin]) +
            base_.multiplier * static_cast<double>(problem_.costs[i] - problem_.costs[origin]);
        if (reduced <= most) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        pace_.expiredAfter(1);
        if (problem_.costs[a] != problem_.costs[b]) return problem_.costs[a] < problem_.costs[b];
        if (problem_.values[a] != problem_.values[b])
            return problem_.values[a] < problem_.values[b];
        return problem_.options[a] < problem_.options[b];
    });
    NearStage stage;
    stage.cls = cls;
    Rank rank(effort_.ways);
    for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
        const Cost cost = problem_.costs[order[begin]];
        const Value value = problem_.values[order[begin]];
        while (end < order.size() && problem_.costs[order[end]] == cost &&
               problem_.values[order[end]] == value)
            ++end;
        if (rank.dominates(value)) continue;
        rank.push(value, static_cast<std::uint32_t>(end - begin));
        pace_.expiredAfter(end - begin);
        for (std::size_t i = begin; i < end; ++i) {
            stage.option.push_back(order[i]);
            stage.index.push_back(problem_.options[order[i]]);
            stage.rows.push(cost - problem_.costs[origin], value - problem_.values[origin], 1);
        }
    }
    return stage;
}

// Returns the sum over classes of max(|value| + lambda |cost|).
double Search::collectStages() {
    double scale = 0.0;
    double shortfall = 0.0;  // of the base, which may not be the least Lagrangian value
    for (std::size_t cls = 0; cls < problem_.size(); ++cls) {
        const std::size_t origin = base_.option[cls];
        double largest = 0.0;
        double least = 0.0;
        for (std::size_t i = problem_.offsets[cls]; i < problem_.offsets[cls + 1]; ++i) {
            const auto cost = static_cast<double>(problem_.costs[i] - problem_.costs[origin]);
            const double value = toDouble(problem_.values[i] - problem_.values[origin]);
            largest = std::max(largest, std::abs(value) + base_.multiplier * std::abs(cost));
            least = std::min(least, value + base_.multiplier * cost);
        }
        scale += largest;
        shortfall -= least;
    }
    const double spare = base_.multiplier * static_cast<double>(base_.slack);
    const double gap = std::max(toDouble(target_) + spare, 0.0);
    const double margin = relativeMargin * (scale + spare);
    for (std::size_t cls = 0; cls < problem_.size(); ++cls) {
        NearStage stage = collectStage(cls, gap + shortfall + margin);
        const bool fixed = stage.option.size() == 1 && stage.option.front() == base_.option[cls];
        if (!fixed) result_.stages.push_back(std::move(stage));
    }
    const auto span = [](const NearStage& stage) {
        return stage.rows.cost.back() - stage.rows.cost.front();
    };
    std::stable_sort(result_.stages.begin(), result_.stages.end(),
                     [&](const NearStage& a, const NearStage& b) { return span(a) > span(b); });
    return margin;
}

void Search::collectSlopes() {
    std::vector<Segment> segments;
    for (std::size_t t = 0; t < result_.stages.size(); ++t) {
        const NearList& rows = result_.stages[t].rows;
        std::vector<std::size_t> stairs;  // rows that no other one dominates
        std::vector<Cost> costs;
        std::vector<Value> values;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (!stairs.empty() && rows.value[stairs.back()] <= rows.value[i]) continue;
            stairs.push_back(i);
            costs.push_back(rows.cost[i]);
            values.push_back(rows.value[i]);
        }
        segments.clear();
        appendHull(costs, values, segments);
        for (const Segment& segment : segments) {
            const std::size_t from = stairs[segment.from];
            const std::size_t to = stairs[segment.to];
            slopes_.push_back({segment.efficiency, rows.cost[to] - rows.cost[from],
                               rows.value[from] - rows.value[to], t});
        }
    }
    std::sort(slopes_.begin(), slopes_.end(), [&](const Slope& a, const Slope& b) {
        pace_.expiredAfter(1);
        return a.efficiency != b.efficiency ? a.efficiency > b.efficiency : a.stage < b.stage;
    });
}

// The relaxation of the stages after `stage`: least value for each cost left, as knots of ascending cost.
void Search::coverKnots(std::size_t stage) {
    Cost cost = 0;
    Value value = 0;
    for (std::size_t t = stage + 1; t < result_.stages.size(); ++t) {
        cost += result_.stages[t].rows.cost.front();
        value += result_.stages[t].rows.value.front();
    }
    knots_.assign(1, {cost, toDouble(value), 0.0});
    for (const Slope& slope : slopes_) {
        if (slope.stage <= stage) continue;
        knots_.back().efficiency = slope.efficiency;
        cost += slope.cost;
        value -= slope.value;
        knots_.push_back({cost, toDouble(value), 0.0});
    }
}

// The merged states that may still end at or below the target; with a beam, the best of them.
NearList Search::keepPromising(const NearList& merged) {
    using Kept = std::pair<double, std::size_t>;  // bound, state
    LargeVector<Kept> kept;
    const bool few = effort_.beam <= merged.size() / 4;
    kept.reserve(few ? 4 * effort_.beam + 1 : merged.size());
    const auto keepBest = [&] {
        if (kept.size() <= effort_.beam) return;
        const auto last = kept.begin() + static_cast<std::ptrdiff_t>(effort_.beam);
        std::nth_element(kept.begin(), last, kept.end());
        kept.erase(last, kept.end());
    };
    std::size_t knot = knots_.size() - 1;
    for (std::size_t i = 0; i < merged.size(); ++i) {
        if (i % pollEvery == 0) require(2 * kept.size() * (sizeof(Kept) + nearStateBytes));
        if (i % pollEvery == 0) watch_.check();
        const Cost left = base_.slack - merged.cost[i];
        while (knot > 0 && knots_[knot].cost > left) --knot;
        if (knots_[knot].cost > left) break;
        const double rest = knots_[knot].value -
                            knots_[knot].efficiency * static_cast<double>(left - knots_[knot].cost);
        const double bound = toDouble(merged.value[i]) + rest;
        if (bound <= cut_) kept.emplace_back(bound, i);
        if (kept.size() / 4 >= effort_.beam) keepBest();
    }
    keepBest();
    if (effort_.beam != noBeam)
        std::sort(kept.begin(), kept.end(),
                  [](const Kept& a, const Kept& b) { return a.second < b.second; });
    require(kept.size() * (2 * sizeof(Kept) + nearStateBytes));
    NearList list;
    list.restart(kept.size());
    for (const auto& [bound, i] : kept) {
        if (list.size() % pollEvery == 0) watch_.check();
        list.push(merged.cost[i], merged.value[i], merged.ways[i]);
    }
    return list;
}

// Merges two lists, adding up the ways of equal states and dropping what enough others dominate.
void Search::merge(const NearList& a, const NearList& b, NearList& out) {
    const std::size_t peak = out.peak;
    hold(out, a.size() + b.size());
    out.restart(a.size() + b.size());
    Rank rank(effort_.ways);
    const auto before = [](const NearList& one, std::size_t i, const NearList& other,
                           std::size_t j) {
        return one.cost[i] != other.cost[j] ? one.cost[i] < other.cost[j]
                                            : one.value[i] < other.value[j];
    };
    for (std::size_t i = 0, j = 0; i < a.size() || j < b.size();) {
        if ((i + j) % pollEvery < 2) watch_.check();
        const bool fromA = j == b.size() || (i < a.size() && !before(b, j, a, i));
        const bool fromB = i == a.size() || (j < b.size() && !before(a, i, b, j));
        const Cost cost = fromA ? a.cost[i] : b.cost[j];
        const Value value = fromA ? a.value[i] : b.value[j];
        std::uint64_t ways = 0;
        if (fromA) ways += a.ways[i++];
        if (fromB) ways += b.ways[j++];
        if (rank.dominates(value)) continue;
        const auto counted =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(ways, effort_.ways));
        rank.push(value, counted);
        out.push(cost, value, counted);
    }
    const std::size_t written = std::max(peak, out.size());
    held_ -= (out.peak - written) * nearStateBytes;
    out.peak = written;
}

// Counts what a list is about to grow to.
void Search::hold(NearList& list, std::size_t size) {
    if (size > list.peak) {
        held_ += (size - list.peak) * nearStateBytes;
        list.peak = size;
    }
    require(0);
}

// Throws if the lists, and so many bytes more, are beyond the limit.
void Search::require(std::size_t bytes) {
    if (held_ + result_.states * nearStateBytes + bytes > watch_.bytes()) throw LimitReached{};
}

// The list extended by `count` options from `first` on, by halves.
void Search::extend(const NearList& list, const NearList& rows, std::size_t first,
                    std::size_t count, std::size_t level, NearList& out) {
    if (count == 1) {
        hold(out, list.size());
        out.restart(list.size());
        for (std::size_t i = 0; i < list.size(); ++i) {
            if (i % pollEvery == 0) watch_.check();
            out.push(list.cost[i] + rows.cost[first], list.value[i] + rows.value[first],
                     list.ways[i]);
        }
        return;
    }
    NearList& left = pool_[2 * level];
    NearList& right = pool_[2 * level + 1];
    extend(list, rows, first, count / 2, level + 1, left);
    extend(list, rows, first + count / 2, count - count / 2, level + 1, right);
    merge(left, right, out);
}

void Search::searchStages() {
    NearList merged;
    for (std::size_t t = 0; t < result_.stages.size(); ++t) {
        const NearStage& stage = result_.stages[t];
        watch_.check();
        if (result_.states > effort_.states) throw LimitReached{};
        extend(result_.lists.back(), stage.rows, 0, stage.option.size(), 0, merged);
        coverKnots(t);
        result_.lists.push_back(keepPromising(merged));
        result_.states += result_.lists.back().size();
    }
}

NearSearch Search::run() {
    const double margin = collectStages();
    collectSlopes();
    cut_ = toDouble(target_) + margin;
    std::size_t mostOptions = 1;
    for (const NearStage& stage : result_.stages)
        mostOptions = std::max(mostOptions, stage.option.size());
    pool_.resize(2 * static_cast<std::size_t>(std::bit_width(mostOptions)) + 2);
    result_.lists.resize(1);
    result_.lists.front().push(0, 0, 1);
    result_.states = 1;
    try {
        searchStages();
    } catch (const LimitReached&) {
        result_.limit = true;
    }
    giveBack(pool_, watch_);
    return std::move(result_);
}

}  // namespace

void giveBack(std::vector<NearList>& lists, Watch& watch) {
    for (NearList& list : lists) {
        list = {};
        watch.poll();
    }
}

void NearList::restart(std::size_t most) {
    cost.clear();
    value.clear();
    ways.clear();
    cost.reserve(most);
    value.reserve(most);
    ways.reserve(most);
}

void NearList::push(Cost c, Value v, std::uint32_t n) {
    cost.push_back(c);
    value.push_back(v);
    ways.push_back(n);
}

NearSearch searchNear(const Problem& problem, const NearBase& base, Value target,
                      const NearEffort& effort, Watch& watch) {
    return Search(problem, base, target, effort, watch).run();
}

}  // namespace rdprune
