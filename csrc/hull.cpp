#include "hull.h"

#include <algorithm>
#include <numeric>
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

template <typename Costs, typename Values>
void appendHullOf(const Costs& costs, const Values& values, std::vector<Segment>& segments) {
    const std::size_t begin = segments.size();
    segments.resize(begin + costs.size());
    Segment* const first = segments.data() + begin;
    std::size_t size = 0;
    for (std::size_t next = 1; next < costs.size(); ++next) {
        std::size_t from = next - 1;
        for (;;) {
            const auto cost = costs[next] - costs[from];
            const double efficiency =
                static_cast<double>(values[from] - values[next]) / static_cast<double>(cost);
            if (size == 0 || first[size - 1].efficiency > efficiency) {
                first[size++] = {efficiency, static_cast<Cost>(cost),
                                 static_cast<std::uint32_t>(from),
                                 static_cast<std::uint32_t>(next)};
                break;
            }
            from = first[--size].from;
        }
    }
    segments.resize(begin + size);
}

}  // namespace

void appendHull(std::span<const Cost> costs, std::span<const Value> values,
                std::vector<Segment>& segments) {
    appendHullOf(costs, values, segments);
}

namespace {

// Points of a class that may be on its hull. A point on or above the line through two others is not,
// so all such points go at once; without branches, as on noisy curves each is anybody's guess.
class Candidates {
public:
    std::vector<double> cost;
    std::vector<double> value;
    std::vector<std::uint32_t> position;

    void assign(const double* costs, const double* values, std::size_t count) {
        cost.assign(costs, costs + count);
        value.assign(values, values + count);
        position.resize(count);
        std::iota(position.begin(), position.end(), std::uint32_t{0});
        while (drop()) {
        }
    }

private:
    // False once there is little left to drop.
    bool drop() {
        const std::size_t count = cost.size();
        if (count < 3) return false;
        double* const costs = cost.data();
        double* const values = value.data();
        double run = costs[1] - costs[0];
        double fall = values[1] - values[0];
        std::size_t end = 1;
        for (std::size_t i = 1; i + 1 < count; ++i) {
            const double here = costs[i];
            const double level = values[i];
            const double nextRun = costs[i + 1] - here;
            const double nextFall = values[i + 1] - level;
            costs[end] = here;
            values[end] = level;
            position[end] = position[i];
            end += fall * nextRun < nextFall * run ? 1 : 0;
            run = nextRun;
            fall = nextFall;
        }
        costs[end] = costs[count - 1];
        values[end] = values[count - 1];
        position[end] = position[count - 1];
        ++end;
        cost.resize(end);
        value.resize(end);
        position.resize(end);
        return count - end > count / 8;
    }
};

}  // namespace

Relaxation relax(const Problem& problem) {
    Relaxation relaxation;
    const std::size_t options = problem.values.size();
    relaxation.cost.resize(options);
    relaxation.value.resize(options);
    relaxation.segments.reserve(options);
    relaxation.cls.reserve(options);
    double* const costs = relaxation.cost.data();
    double* const values = relaxation.value.data();
    Candidates candidates;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t first = problem.offsets[cls];
        const std::size_t last = problem.offsets[cls + 1];
        const Cost origin = problem.costs[first];
        const Value top = problem.values[first];
        for (std::size_t i = first; i < last; ++i) {
            costs[i] = static_cast<double>(problem.costs[i] - origin);
            values[i] = toDouble(problem.values[i] - top);
        }
        const std::size_t begin = relaxation.segments.size();
        candidates.assign(costs + first, values + first, last - first);
        appendHullOf(candidates.cost, candidates.value, relaxation.segments);
        for (std::size_t s = begin; s < relaxation.segments.size(); ++s) {
            Segment& segment = relaxation.segments[s];
            segment.from = candidates.position[segment.from];
            segment.to = candidates.position[segment.to];
            segment.cost = problem.costs[first + segment.to] - problem.costs[first + segment.from];
        }
        relaxation.cls.resize(relaxation.segments.size(), static_cast<std::uint32_t>(cls));
        relaxation.leastCost += origin;
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
