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
            const double efficiency = static_cast<double>(value) / static_cast<double>(cost);
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
    std::stable_sort(
        relaxation.segments.begin(), relaxation.segments.end(),
        [](const Segment& a, const Segment& b) { return a.efficiency > b.efficiency; });
    Cost total = problem.leastCost(0);
    relaxation.totalCost.reserve(relaxation.segments.size() + 1);
    relaxation.totalCost.push_back(total);
    for (const Segment& segment : relaxation.segments)
        relaxation.totalCost.push_back(total += segment.cost);
    return relaxation;
}

Base solveRelaxation(const Problem& problem, const Relaxation& relaxation, Cost budget) {
    const auto& totals = relaxation.totalCost;
    const auto taken = static_cast<std::size_t>(
        std::upper_bound(totals.begin(), totals.end(), budget) - totals.begin() - 1);
    Base base;
    base.option.assign(problem.offsets.begin(), problem.offsets.end() - 1);
    for (std::size_t i = 0; i < taken; ++i)
        base.option[relaxation.segments[i].cls] = relaxation.segments[i].to;
    base.slack = budget - totals[taken];
    base.greedy = base.option;
    if (taken == relaxation.segments.size()) return base;
    base.multiplier = relaxation.segments[taken].efficiency;
    Cost left = base.slack;
    for (std::size_t i = taken; i < relaxation.segments.size(); ++i) {
        const Segment& segment = relaxation.segments[i];
        if (segment.cost > left || base.greedy[segment.cls] != segment.from) continue;
        base.greedy[segment.cls] = segment.to;
        base.greedyGain += segment.value;
        left -= segment.cost;
    }
    return base;
}

}  // namespace rdprune
