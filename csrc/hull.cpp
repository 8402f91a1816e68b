#include "hull.h"

#include <algorithm>

namespace rdprune {

void appendHull(std::span<const Cost> costs, std::span<const Value> values, std::size_t cls,
                std::size_t first, std::vector<Segment>& segments) {
    const std::size_t begin = segments.size();
    for (std::size_t next = 1; next < costs.size(); ++next) {
        std::size_t from = next - 1;
        for (;;) {
            const Cost cost = costs[next] - costs[from];
            const Value value = values[from] - values[next];
            const double efficiency = toDouble(value) / static_cast<double>(cost);
            if (segments.size() == begin || segments.back().efficiency > efficiency) {
                segments.push_back({efficiency, cost, value, cls, first + from, first + next});
                break;
            }
            from = segments.back().from - first;
            segments.pop_back();
        }
    }
}

Relaxation relax(const Problem& problem) {
    Relaxation relaxation;
    relaxation.segments.reserve(problem.values.size());
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t first = problem.offsets[cls];
        const std::size_t count = problem.offsets[cls + 1] - first;
        appendHull({problem.costs.data() + first, count}, {problem.values.data() + first, count},
                   cls, first, relaxation.segments);
    }
    std::vector<std::pair<double, std::uint32_t>> keys;
    keys.reserve(relaxation.segments.size());
    for (const Segment& segment : relaxation.segments)
        keys.emplace_back(-segment.efficiency, static_cast<std::uint32_t>(keys.size()));
    std::sort(keys.begin(), keys.end());
    Cost total = problem.leastCost(0);
    relaxation.order.reserve(keys.size());
    relaxation.totalCost.reserve(keys.size() + 1);
    relaxation.totalCost.push_back(total);
    for (const auto& [efficiency, index] : keys) {
        relaxation.order.push_back(index);
        relaxation.totalCost.push_back(total += relaxation.segments[index].cost);
    }
    return relaxation;
}

Base solveRelaxation(const Problem& problem, const Relaxation& relaxation, Cost budget) {
    const auto& totals = relaxation.totalCost;
    const auto taken = static_cast<std::size_t>(
        std::upper_bound(totals.begin(), totals.end(), budget) - totals.begin() - 1);
    Base base;
    base.option.assign(problem.offsets.begin(), problem.offsets.end() - 1);
    for (std::size_t i = 0; i < taken; ++i) {
        const Segment& segment = relaxation.segments[relaxation.order[i]];
        base.option[segment.cls] = segment.to;
    }
    base.slack = budget - totals[taken];
    base.greedy = base.option;
    if (taken == relaxation.order.size()) return base;
    base.multiplier = relaxation.segments[relaxation.order[taken]].efficiency;
    Cost left = base.slack;
    for (std::size_t i = taken; i < relaxation.order.size(); ++i) {
        const Segment& segment = relaxation.segments[relaxation.order[i]];
        if (segment.cost > left || base.greedy[segment.cls] != segment.from) continue;
        base.greedy[segment.cls] = segment.to;
        base.greedyGain += segment.value;
        left -= segment.cost;
    }
    return base;
}

}  // namespace rdprune
