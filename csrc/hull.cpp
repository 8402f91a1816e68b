#include "hull.h"

#include <algorithm>
#include <utility>

namespace rdprune {

namespace {

// Efficiency, negated so that the steepest comes first, and index of a segment.
using Key = std::pair<double, std::uint32_t>;
constexpr std::ptrdiff_t fewKeys = 24;

double pivotOf(const std::vector<Key>& keys, std::ptrdiff_t low, std::ptrdiff_t high) {
    const auto at = [&](std::ptrdiff_t i) { return keys[static_cast<std::size_t>(i)].first; };
    const double a = at(low);
    const double b = at(low + (high - low) / 2);
    const double c = at(high - 1);
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

}  // namespace

void appendHull(std::span<const double> costs, std::span<const double> values,
                std::vector<Segment>& segments) {
    const std::size_t begin = segments.size();
    for (std::size_t next = 1; next < costs.size(); ++next) {
        std::size_t from = next - 1;
        for (;;) {
            const double cost = costs[next] - costs[from];
            const double efficiency = (values[from] - values[next]) / cost;
            if (segments.size() == begin || segments.back().efficiency > efficiency) {
                segments.push_back({efficiency, static_cast<Cost>(cost),
                                    static_cast<std::uint32_t>(from),
                                    static_cast<std::uint32_t>(next)});
                break;
            }
            from = segments.back().from;
            segments.pop_back();
        }
    }
}

Relaxation relax(const Problem& problem) {
    Relaxation relaxation;
    const std::size_t options = problem.values.size();
    relaxation.cost.reserve(options);
    relaxation.value.reserve(options);
    relaxation.segments.reserve(options);
    relaxation.cls.reserve(options);
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t first = problem.offsets[cls];
        const std::size_t count = problem.offsets[cls + 1] - first;
        for (std::size_t i = first; i < first + count; ++i) {
            relaxation.cost.push_back(static_cast<double>(problem.costs[i] - problem.costs[first]));
            relaxation.value.push_back(toDouble(problem.values[i] - problem.values[first]));
        }
        const std::size_t begin = relaxation.segments.size();
        appendHull(std::span(relaxation.cost).subspan(first, count),
                   std::span(relaxation.value).subspan(first, count), relaxation.segments);
        for (std::size_t s = begin; s < relaxation.segments.size(); ++s) {
            Segment& segment = relaxation.segments[s];
            segment.cost = problem.costs[first + segment.to] - problem.costs[first + segment.from];
        }
        relaxation.cls.resize(relaxation.segments.size(), static_cast<std::uint32_t>(cls));
        relaxation.leastCost += problem.costs[first];
    }
    return relaxation;
}

Base solveRelaxation(const Problem& problem, const Relaxation& relaxation, Cost budget) {
    Base base;
    base.option.assign(problem.offsets.begin(), problem.offsets.end() - 1);
    base.slack = budget - relaxation.leastCost;
    const auto take = [&](const Key& key) {
        const Segment& segment = relaxation.segments[key.second];
        std::size_t& option = base.option[relaxation.cls[key.second]];
        option = std::max(option, problem.offsets[relaxation.cls[key.second]] + segment.to);
        base.slack -= segment.cost;
    };
    const auto costOf = [&](auto first, auto last) {
        Cost sum = 0;
        for (; first != last; ++first) sum += relaxation.segments[first->second].cost;
        return sum;
    };
    std::vector<Key> keys;
    keys.reserve(relaxation.segments.size());
    for (const Segment& segment : relaxation.segments)
        keys.emplace_back(-segment.efficiency, static_cast<std::uint32_t>(keys.size()));

    // Everything before `low` is taken, nothing from `high` on can be.
    auto low = keys.begin();
    auto high = keys.end();
    while (high - low > fewKeys) {
        const double pivot = pivotOf(keys, low - keys.begin(), high - keys.begin());
        const auto equal =
            std::partition(low, high, [&](const Key& key) { return key.first < pivot; });
        const auto above =
            std::partition(equal, high, [&](const Key& key) { return key.first <= pivot; });
        if (costOf(low, equal) > base.slack) {
            high = equal;
            continue;
        }
        std::for_each(low, equal, take);
        low = equal;
        if (costOf(equal, above) > base.slack) {
            high = above;
            break;
        }
        std::for_each(equal, above, take);
        low = above;
    }
    std::sort(low, high);
    while (low != high && relaxation.segments[low->second].cost <= base.slack) take(*low++);
    if (low == high && high != keys.end()) low = std::min_element(high, keys.end());
    if (low != keys.end()) base.multiplier = -low->first;
    return base;
}

RelaxationWalk::RelaxationWalk(const Problem& problem, const Relaxation& relaxation)
    : problem_(problem), relaxation_(relaxation) {
    std::vector<Key> keys;
    keys.reserve(relaxation.segments.size());
    for (const Segment& segment : relaxation.segments)
        keys.emplace_back(-segment.efficiency, static_cast<std::uint32_t>(keys.size()));
    std::sort(keys.begin(), keys.end());
    order_.reserve(keys.size());
    for (const Key& key : keys) order_.push_back(key.second);
    restart();
}

void RelaxationWalk::restart() {
    base_.option.assign(problem_.offsets.begin(), problem_.offsets.end() - 1);
    base_.slack = 0;
    budget_ = relaxation_.leastCost;
    taken_ = 0;
}

const Base& RelaxationWalk::solve(Cost budget) {
    if (budget < budget_) restart();
    base_.slack += budget - budget_;
    budget_ = budget;
    base_.multiplier = 0.0;
    for (; taken_ < order_.size(); ++taken_) {
        const Segment& segment = relaxation_.segments[order_[taken_]];
        if (segment.cost > base_.slack) {
            base_.multiplier = segment.efficiency;
            break;
        }
        const std::uint32_t cls = relaxation_.cls[order_[taken_]];
        base_.option[cls] = std::max(base_.option[cls], problem_.offsets[cls] + segment.to);
        base_.slack -= segment.cost;
    }
    return base_;
}

}  // namespace rdprune
