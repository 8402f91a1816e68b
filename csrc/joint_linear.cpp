#include "joint_linear.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rdprune {

namespace {

constexpr double boundMargin = 0x1p-44;

}  // namespace

Vertex toVertex(std::vector<std::size_t> option) {
    Vertex vertex;
    vertex.other = option.front();
    vertex.option = option;
    vertex.feasible = std::move(option);
    return vertex;
}

LinearKnapsack::LinearKnapsack(const JointProblem& problem, Cost budget)
    : problem_(problem),
      order_(problem.options.size()),
      extra_(problem.options.size()),
      budget_(std::min(budget, maxTotalCost)) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(problem.offsets[cls]);
        const auto end = order_.begin() + static_cast<std::ptrdiff_t>(problem.offsets[cls + 1]);
        std::stable_sort(begin, end, [&](std::size_t a, std::size_t b) {
            return problem.costs[a] < problem.costs[b];
        });
        const Cost least = problem.costs[*begin];
        leastCost_ += least;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i)
            extra_[i] = static_cast<double>(problem.costs[order_[i]] - least);
    }
}

double LinearKnapsack::bound(std::span<const double> distortions, double multiplier) const {
    const double slack = multiplier * static_cast<double>(budget_ - leastCost_);
    double sum = -slack;
    double size = slack;
    for (std::size_t cls = 0; cls < problem_.classes(); ++cls) {
        const std::size_t first = problem_.offsets[cls];
        double least = distortions[order_[first]];
        for (std::size_t i = first + 1; i < problem_.offsets[cls + 1]; ++i)
            least = std::min(least, distortions[order_[i]] + multiplier * extra_[i]);
        sum += least;
        size += std::abs(least);
    }
    return sum - boundMargin * size;
}

Vertex LinearKnapsack::minimise(std::span<const double> distortions) const {
    std::vector<Segment> segments;
    segments.reserve(order_.size());
    Vertex vertex;
    vertex.option.resize(problem_.classes());
    for (std::size_t cls = 0; cls < problem_.classes(); ++cls) {
        const std::size_t begin = segments.size();
        std::size_t last = problem_.offsets[cls];  // positions in order_
        std::size_t next = last + 1;
        for (; next < problem_.offsets[cls + 1] && extra_[next] == 0.0; ++next)
            if (distortions[order_[next]] < distortions[order_[last]]) last = next;
        vertex.option[cls] = order_[last];
        for (; next < problem_.offsets[cls + 1]; ++next) {
            if (!(distortions[order_[next]] < distortions[order_[last]])) continue;
            std::size_t from = last;
            for (;;) {
                const double saved = distortions[order_[from]] - distortions[order_[next]];
                const double efficiency = saved / (extra_[next] - extra_[from]);
                if (segments.size() == begin || segments.back().efficiency > efficiency) {
                    segments.push_back({efficiency, 0, from, next});
                    break;
                }
                from = segments.back().from;
                segments.pop_back();
            }
            // Of two options with the same cost the second, better one replaces the first.
            last = next;
        }
        for (std::size_t s = begin; s < segments.size(); ++s) {
            segments[s].from = order_[segments[s].from];
            segments[s].to = order_[segments[s].to];
            segments[s].cost = problem_.costs[segments[s].to] - problem_.costs[segments[s].from];
        }
    }
    std::vector<Rank> ranks(segments.size());
    for (std::size_t s = 0; s < segments.size(); ++s) ranks[s] = {segments[s].efficiency, s};
    std::sort(ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) {
        return a.efficiency != b.efficiency ? a.efficiency > b.efficiency : a.segment < b.segment;
    });
    Cost slack = budget_ - leastCost_;
    std::size_t taken = 0;
    for (; taken < ranks.size(); ++taken) {
        const Segment& segment = segments[ranks[taken].segment];
        if (segment.cost > slack) break;
        vertex.option[problem_.classFor[segment.to]] = segment.to;
        slack -= segment.cost;
    }
    vertex.other = vertex.option[0];
    vertex.feasible = vertex.option;
    if (taken == ranks.size()) {
        vertex.lowerBound = bound(distortions, 0.0);
        return vertex;
    }
    const Segment& torn = segments[ranks[taken].segment];
    vertex.cls = problem_.classFor[torn.to];
    vertex.other = torn.to;
    vertex.share = static_cast<double>(slack) / static_cast<double>(torn.cost);
    vertex.lowerBound = bound(distortions, torn.efficiency);
    for (std::size_t place = taken; place < ranks.size(); ++place) {
        const Segment& segment = segments[ranks[place].segment];
        std::size_t& option = vertex.feasible[problem_.classFor[segment.to]];
        if (segment.cost > slack || option != segment.from) continue;
        option = segment.to;
        slack -= segment.cost;
    }
    return vertex;
}

}  // namespace rdprune
