#include "near_optimal.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>
#include <utility>

#include "hull.h"
#include "layout.h"
#include "near_search.h"
#include "near_trace.h"
#include "single_budget.h"

namespace rdprune {

namespace {

constexpr std::size_t firstUndecided = 12;  // classes with an alternative at the first target
constexpr double targetGrowth = 3.0;
constexpr double fastGrowth = 81.0;  // after a search that took much less than it might
constexpr std::size_t muchLess = 64;
constexpr double leastShare = 0x1p-24;  // of all there is, for the first target
constexpr double beamReach = 8.0;       // how far beyond a failed target the beam looks
constexpr std::size_t firstStates = std::size_t{1} << 14;
constexpr std::size_t leastBeam = 64;
constexpr std::size_t narrower = 4;
constexpr std::size_t checkEvery = std::size_t{1} << 14;
constexpr std::size_t listedBytes = 128;  // of an allocation in the list, without its options

// Ordered by preference.
struct Listed {
    Value value;  // relative to the base
    Cost cost;
    std::vector<Index> choice;

    auto operator<=>(const Listed& other) const {
        return std::tie(value, cost, choice) <=> std::tie(other.value, other.cost, other.choice);
    }
    bool operator==(const Listed& other) const = default;
};

class NearSolver {
public:
    NearSolver(const Instance& instance, Cost budget, const Nearness& nearness,
               const Limits& limits)
        : nearness_(nearness), limits_(limits), watch_(limits_) {
        const Layout layout(instance, watch_);
        problem_ = layout.problem(instance.distortions, watch_, true);
        start(layout.problem(instance.distortions, watch_), budget);
        reserve();
    }

    NearOptimal run();

private:
    void start(const Problem& reduced, Cost budget);
    void reserve();
    void raiseTargets();
    [[nodiscard]] Value farthest() const;
    [[nodiscard]] std::vector<std::size_t> finals(const NearSearch& search, Value target);
    bool take(const NearSearch& search, Value target);
    void tryBeam(Value target);
    void list(Listed listed);

    const Nearness& nearness_;
    Limits limits_;         // without what the list may take
    Watch watch_;           // refers to them
    std::size_t most_ = 1;  // as many as there is room for, up to k
    Problem problem_;       // with dominated options
    NearBase base_;
    Value origin_ = 0;  // value of the base
    Value bound_ = 0;   // of the relaxation, relative to the base
    Value widest_ = 0;  // no two allocations differ by more
    double gap_ = 0.0;
    Solution first_;
    std::set<Listed> listed_;  // the best known
    bool proved_ = false;      // they are the best
    Value covered_ = 0;        // all allocations of less value are listed
};

Value toValue(double units) {
    return static_cast<Value>(std::clamp(units, -toDouble(noTarget), toDouble(noTarget)));
}

void NearSolver::start(const Problem& reduced, Cost budget) {
    const Relaxation relaxation = relax(reduced);
    Workspace work;
    const Limits left{watch_.left(), limits_.bytes, limits_.poll};
    first_ = solveSingleBudget(reduced, relaxation, std::min(budget, maxTotalCost), left, work);
    work.giveBack(watch_);
    const Base base = solveRelaxation(reduced, relaxation, std::min(budget, maxTotalCost));
    base_.multiplier = base.multiplier;
    base_.slack = base.slack;
    origin_ = reduced.totalValue(base.option);
    bound_ = toValue(-base.multiplier * static_cast<double>(base.slack));
    Listed best{-origin_, 0, first_.choice};
    for (std::size_t cls = 0, layer = 0; cls < problem_.size(); ++cls) {
        while (problem_.classOf[layer] != static_cast<Index>(cls)) ++layer;
        Value low = problem_.values[problem_.offsets[cls]];
        Value high = low;
        for (std::size_t i = problem_.offsets[cls]; i < problem_.offsets[cls + 1]; ++i) {
            if (problem_.options[i] == reduced.options[base.option[cls]]) base_.option.push_back(i);
            if (problem_.options[i] == first_.choice[layer]) {
                best.value += problem_.values[i];
                best.cost += problem_.costs[i];
            }
            low = std::min(low, problem_.values[i]);
            high = std::max(high, problem_.values[i]);
        }
        widest_ += high - low;
    }
    for (const std::size_t option : base_.option) best.cost -= problem_.costs[option];
    Prices prices;
    prices.compute(reduced, relaxation, base);
    gap_ = std::max(prices.undecidedGap(firstUndecided),
                    leastShare * std::max(std::abs(toDouble(bound_)), toDouble(widest_)));
    covered_ = first_.optimal ? best.value : -noTarget;
    list(std::move(best));
}

// Up to a quarter of the memory is for the list, and as much for the copy that the caller gets.
void NearSolver::reserve() {
    const std::size_t bytes = listedBytes + problem_.classOf.size() * sizeof(Index);
    most_ = std::clamp(limits_.bytes / 4 / bytes, std::size_t{1}, nearness_.most);
    limits_.bytes -= std::min(limits_.bytes, 2 * most_ * bytes);
}

void NearSolver::list(Listed listed) {
    listed_.insert(std::move(listed));
    if (listed_.size() > most_) listed_.erase(std::prev(listed_.end()));
}

// The largest value that is close enough to the best one known.
Value NearSolver::farthest() const {
    if (std::isinf(nearness_.relative) || std::isinf(nearness_.absolute)) return noTarget;
    const Value best = listed_.begin()->value;
    const Distortion size = std::abs(problem_.scale.toDistortion(origin_ + best));
    const double distance = std::max(nearness_.relative * size, nearness_.absolute);
    const double units = std::floor(std::ldexp(distance, -problem_.scale.exponent));
    return std::min(best + toValue(std::min(units, toDouble(noTarget))), noTarget);
}

// The final states at or below the target, in order of preference, as many as make k ways.
std::vector<std::size_t> NearSolver::finals(const NearSearch& search, Value target) {
    const NearList& last = search.lists.back();
    const auto before = [&](std::size_t a, std::size_t b) {
        return last.value[a] != last.value[b] ? last.value[a] < last.value[b]
                                              : last.cost[a] < last.cost[b];
    };
    std::vector<std::size_t> order;
    const auto keepFirst = [&] {
        if (order.size() <= most_) return;
        const auto end = order.begin() + static_cast<std::ptrdiff_t>(most_);
        std::nth_element(order.begin(), end, order.end(), before);
        order.erase(end, order.end());
    };
    for (std::size_t i = 0; i < last.size(); ++i) {
        if (i % checkEvery == 0) watch_.check();
        if (last.value[i] <= target) order.push_back(i);
        if (order.size() >= 2 * most_ + checkEvery) keepFirst();
    }
    keepFirst();
    std::sort(order.begin(), order.end(), before);
    std::size_t ways = 0;
    std::size_t count = 0;
    while (count < order.size() && ways < most_) ways += last.ways[order[count++]];
    order.resize(count);
    return order;
}

// Lists what a search found; false if that is not all: there were more ties than are looked at, or the
// time is up.
bool NearSolver::take(const NearSearch& search, Value target) {
    bool whole = true;
    std::size_t left = most_;
    const NearList& last = search.lists.back();
    try {
        for (const std::size_t state : finals(search, target)) {
            if (left == 0) break;
            const auto found = [&](const std::vector<std::size_t>& taken) {
                --left;
                std::vector<std::size_t> option = base_.option;
                for (std::size_t t = 0; t < taken.size(); ++t)
                    option[search.stages[t].cls] = search.stages[t].option[taken[t]];
                list({last.value[state], last.cost[state], problem_.layerChoice(option)});
            };
            whole = traceNear(search, state, left, watch_, found) && whole;
        }
    } catch (const LimitReached&) {
        return false;
    }
    return whole;
}

// Looks for k allocations with short lists, shorter still where memory ends; they prove nothing.
void NearSolver::tryBeam(Value target) {
    std::size_t options = 1;
    for (std::size_t cls = 0; cls < problem_.size(); ++cls)
        options = std::max(options, problem_.offsets[cls + 1] - problem_.offsets[cls]);
    // Kept after every class, and held while the options of one are merged.
    const std::size_t fitting = limits_.bytes / nearStateBytes / (problem_.size() + 2 * options);
    std::size_t width = std::max(leastBeam, std::min(2 * most_, fitting));
    for (;; width /= narrower) {
        const NearEffort effort{static_cast<std::uint32_t>(most_), width,
                                std::numeric_limits<std::size_t>::max()};
        NearSearch search = searchNear(problem_, base_, target, effort, watch_);
        if (!search.limit) take(search, target);
        giveBack(search.lists, watch_);
        if (!search.limit || width / narrower < leastBeam || watch_.expired()) return;
    }
}

void NearSolver::raiseTargets() {
    constexpr std::size_t noLimit = std::numeric_limits<std::size_t>::max();
    for (std::size_t most = firstStates;; most *= 8) {
        const auto within = [&](double gap) {
            const Value end = listed_.size() == most_
                                  ? std::min(listed_.rbegin()->value, farthest())
                                  : farthest();
            const Value rising = bound_ + toValue(gap);
            return std::min(
                end, rising >= widest_ ? noTarget : std::max(rising, listed_.begin()->value));
        };
        tryBeam(within(beamReach * gap_));
        const Value target = within(gap_);
        const bool last = target == within(toDouble(noTarget));
        const NearEffort effort{static_cast<std::uint32_t>(most_), noBeam, last ? noLimit : most};
        NearSearch exact = searchNear(problem_, base_, target, effort, watch_);
        const bool whole = !exact.limit && take(exact, target);
        giveBack(exact.lists, watch_);
        if (!exact.limit) {
            if (whole) covered_ = target;
            // A better first one may have moved the end.
            proved_ = whole && target >= within(toDouble(noTarget));
            if (proved_ || !whole) return;
        }
        if ((exact.limit && last) || watch_.expired()) return;
        gap_ *= exact.states < most / muchLess ? fastGrowth : targetGrowth;
    }
}

NearOptimal NearSolver::run() {
    raiseTargets();
    NearOptimal result;
    result.bestOptimal = covered_ != -noTarget;
    result.multiplier = first_.multipliers.front();
    const Value end = farthest();
    std::erase_if(listed_, [&](const Listed& listed) { return listed.value > end; });
    result.complete = proved_ && listed_.size() < most_;
    result.optimal = result.complete || (proved_ && most_ == nearness_.most);
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (result.complete && end == noTarget) {
        result.lowerBound = infinity;
    } else if (covered_ == -noTarget) {
        result.lowerBound = first_.lowerBound;
    } else {
        const Value least = result.complete ? end
                            : proved_       ? listed_.rbegin()->value
                                            : std::min(covered_, listed_.rbegin()->value);
        result.lowerBound = problem_.unrounded(problem_.scale.toDistortion(origin_ + least));
    }
    // Which of two comes first may be for their rounding alone.
    const bool exact = problem_.scale.exact;
    result.optimal = result.optimal && exact;
    result.bestOptimal = result.bestOptimal && exact;
    result.complete = result.complete && exact;
    if (!exact)
        result.lowerBound =
            std::min(result.lowerBound, problem_.unrounded(problem_.scale.toDistortion(
                                            origin_ + std::min(covered_, listed_.begin()->value))));
    result.choices.reserve(listed_.size());
    while (!listed_.empty())
        result.choices.push_back(std::move(listed_.extract(listed_.begin()).value().choice));
    return result;
}

}  // namespace

NearOptimal solveNearOptimal(const Instance& instance, Cost budget, const Nearness& nearness,
                             const Limits& limits) {
    if (instance.dimensions != 1) throw std::invalid_argument("costs must have one column");
    if (budget < 0) throw std::invalid_argument("budget must not be negative");
    constexpr std::size_t largest = 100000;
    if (nearness.most < 1 || nearness.most > largest)
        throw std::invalid_argument("k must lie between 1 and 100000");
    if (!(nearness.relative >= 0) || !(nearness.absolute >= 0))
        throw std::invalid_argument("gaps must not be negative");
    return NearSolver(instance, budget, nearness, limits).run();
}

}  // namespace rdprune
