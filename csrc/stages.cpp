#include "stages.h"

#include <algorithm>
#include <cmath>

namespace rdprune {

namespace {

// Four minima at a time: one alone waits for itself.
double leastOf(const double* numbers, std::size_t count) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double least[4] = {infinity, infinity, infinity, infinity};
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (std::size_t lane = 0; lane < 4; ++lane)
            least[lane] = numbers[i + lane] < least[lane] ? numbers[i + lane] : least[lane];
    for (; i < count; ++i) least[0] = std::min(least[0], numbers[i]);
    return std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
}

}  // namespace

void Prices::compute(const Problem& problem, const Relaxation& relaxation, const Base& base) {
    reduced.resize(problem.values.size());
    nearest.resize(problem.size());
    margin.resize(problem.size());
    const double* const costs = relaxation.cost.data();
    const double* const values = relaxation.value.data();
    const double multiplier = base.multiplier;
    double* const out = reduced.data();
    shortfall = 0.0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t first = problem.offsets[cls];
        const std::size_t last = problem.offsets[cls + 1];
        const std::size_t origin = base.option[cls];
        const double offset = values[origin] + multiplier * costs[origin];
        for (std::size_t i = first; i < last; ++i)
            out[i] = values[i] + multiplier * costs[i] - offset;
        margin[cls] = 2.0 * relativeMargin * (multiplier * costs[last - 1] - values[last - 1]);
        nearest[cls] = std::min(leastOf(out + first, origin - first),
                                leastOf(out + origin + 1, last - origin - 1));
        shortfall += margin[cls] + std::max(-nearest[cls], 0.0);
    }
}

double Prices::undecidedGap(std::size_t undecided) {
    sorted.clear();
    for (const double least : nearest)
        if (std::isfinite(least)) sorted.push_back(std::max(least, 0.0));
    if (sorted.empty()) return 0.0;
    const auto rank =
        sorted.begin() + static_cast<std::ptrdiff_t>(std::min(undecided, sorted.size() - 1));
    std::nth_element(sorted.begin(), rank, sorted.end());
    return *rank;
}

void Stages::collectOptions(const Problem& problem, const Prices& prices, double gap) {
    ranges_.clear();
    found_.resize(problem.values.size());
    scale_ = 0.0;
    std::size_t end = 0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const double most = gap + relativeMargin * gap + prices.margin[cls];
        if (prices.nearest[cls] > most) continue;
        const std::size_t begin = end;
        const std::size_t last = problem.offsets[cls + 1];
        for (std::size_t i = problem.offsets[cls]; i < last; ++i) {
            found_[end] = static_cast<std::uint32_t>(i);
            end += prices.reduced[i] <= most ? 1 : 0;
        }
        scale_ += prices.margin[cls] / relativeMargin;
        ranges_.push_back({problem.costs[found_[end - 1]] - problem.costs[found_[begin]],
                           static_cast<std::uint32_t>(cls), static_cast<std::uint32_t>(begin),
                           static_cast<std::uint32_t>(end)});
    }
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) {
        return a.span != b.span ? a.span > b.span : a.cls < b.cls;
    });
}

void Stages::collect(const Problem& problem, const Base& base, const Prices& prices, double gap) {
    collectOptions(problem, prices, gap);
    stages_.clear();
    option.clear();
    cost.clear();
    value.clear();
    reduced.clear();
    index.clear();
    mostOptions_ = 1;
    for (const Range& range : ranges_) {
        const std::size_t origin = base.option[range.cls];
        const std::size_t count = range.last - range.first;
        stages_.push_back({range.cls, option.size(), count});
        mostOptions_ = std::max(mostOptions_, count);
        for (std::uint32_t f = range.first; f < range.last; ++f) {
            const std::uint32_t i = found_[f];
            option.push_back(i);
            cost.push_back(problem.costs[i] - problem.costs[origin]);
            value.push_back(problem.values[i] - problem.values[origin]);
            reduced.push_back(prices.reduced[i]);
            index.push_back(problem.options[i]);
        }
    }
    collectSlopes();
}

void Stages::collectSlopes() {
    right_.clear();
    left_.clear();
    for (std::uint32_t t = 0; t < stages_.size(); ++t) {
        const Stage& stage = stages_[t];
        const auto costs = std::span(std::as_const(cost)).subspan(stage.first, stage.count);
        const auto values = std::span(std::as_const(value)).subspan(stage.first, stage.count);
        const auto origin = static_cast<std::size_t>(
            std::lower_bound(costs.begin(), costs.end(), Cost{0}) - costs.begin());
        const auto add = [&](std::size_t begin, std::size_t end, std::vector<Slope>& slopes) {
            segments_.clear();
            appendHull(costs.subspan(begin, end - begin), values.subspan(begin, end - begin),
                       segments_);
            for (const Segment& segment : segments_) {
                const std::size_t from = stage.first + begin + segment.from;
                const std::size_t to = stage.first + begin + segment.to;
                slopes.push_back({cost[to] - cost[from], value[from] - value[to],
                                  segment.efficiency, t, option[begin == origin ? to : from]});
            }
        };
        add(0, origin + 1, left_);
        add(origin, stage.count, right_);
    }
    sortSlopes(right_, -1.0, rightOrder_);
    sortSlopes(left_, 1.0, leftOrder_);
}

// By efficiency times sign, then stage.
void Stages::sortSlopes(const std::vector<Slope>& slopes, double sign, std::vector<Key>& order) {
    order.clear();
    for (const Slope& slope : slopes)
        order.emplace_back(sign * slope.efficiency, static_cast<std::uint32_t>(order.size()));
    std::sort(order.begin(), order.end());
}

std::span<const Stages::Knot> Stages::relaxAfter(std::size_t stage, Cost low, Cost high) {
    knots_.clear();
    Cost sum = 0;
    Value total = 0;
    for (const Key& key : leftOrder_) {
        if (sum <= low) break;
        const Slope& slope = left_[key.second];
        if (slope.stage <= stage) continue;
        sum -= slope.cost;
        total += slope.value;
        knots_.push_back({sum, toDouble(total), slope.efficiency, total});
    }
    std::reverse(knots_.begin(), knots_.end());
    sum = 0;
    total = 0;
    knots_.push_back({0, 0.0, 0.0, 0});
    for (const Key& key : rightOrder_) {
        if (sum >= high) break;
        const Slope& slope = right_[key.second];
        if (slope.stage <= stage) continue;
        knots_.back().efficiency = slope.efficiency;
        sum += slope.cost;
        total -= slope.value;
        knots_.push_back({sum, toDouble(total), 0.0, total});
    }
    return knots_;
}

void Stages::complete(std::size_t stage, Cost knot, std::vector<std::size_t>& chosen) const {
    Cost sum = 0;
    for (const Key& key : knot > 0 ? rightOrder_ : leftOrder_) {
        if (sum == knot) break;
        const Slope& slope = (knot > 0 ? right_ : left_)[key.second];
        if (slope.stage <= stage) continue;
        sum += knot > 0 ? slope.cost : -slope.cost;
        chosen[stages_[slope.stage].cls] = slope.option;
    }
}

}  // namespace rdprune
