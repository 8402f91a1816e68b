#include "multi_repair.h"

#include <algorithm>
#include <cmath>

#include "exponential.h"
#include "multipliers.h"

namespace rdprune {

namespace {

constexpr int leastPower = -20;  // of two, of the multipliers added, in value ranges a budget
constexpr int mostPower = 20;
constexpr int priceRounds = 16;
constexpr int mostSweeps = 16;
constexpr std::size_t mostVisits = std::size_t{1} << 26;  // of options; about half a second

class Repair {
public:
    Repair(const Problem& problem, std::span<const Cost> budgets, Watch& watch)
        : problem_(problem), budgets_(budgets), watch_(watch), left_(budgets.size()) {}

    void start(std::vector<std::size_t> option);
    void sweep();
    [[nodiscard]] bool fits() const { return excess(nullptr, nullptr) == 0.0; }
    [[nodiscard]] double share(std::size_t d, Cost amount) const {
        return static_cast<double>(amount) / static_cast<double>(std::max<Cost>(budgets_[d], 1));
    }
    [[nodiscard]] Cost left(std::size_t d) const { return left_[d]; }
    [[nodiscard]] bool goesOn() const { return visits_ < mostVisits; }
    [[nodiscard]] const std::vector<std::size_t>& option() const { return option_; }

private:
    [[nodiscard]] double excess(const Cost* without, const Cost* with) const;
    bool exchange(std::size_t cls);

    const Problem& problem_;
    std::span<const Cost> budgets_;
    Watch& watch_;
    std::vector<std::size_t> option_;
    std::vector<Cost> left_;  // of each budget; negative beyond it
    std::size_t visits_ = 0;
};

void Repair::start(std::vector<std::size_t> option) {
    watch_.poll();
    visits_ += problem_.values.size();
    option_ = std::move(option);
    for (std::size_t d = 0; d < left_.size(); ++d) {
        left_[d] = budgets_[d];
        for (const std::size_t chosen : option_)
            left_[d] -= problem_.costs[chosen * left_.size() + d];
    }
}

// Beyond the budgets if one row of costs went and another one came.
double Repair::excess(const Cost* without, const Cost* with) const {
    double sum = 0.0;
    for (std::size_t d = 0; d < left_.size(); ++d) {
        const Cost left = left_[d] + (without == nullptr ? 0 : without[d] - with[d]);
        if (left < 0) sum += share(d, -left);
    }
    return sum;
}

// False if the class keeps its option.
bool Repair::exchange(std::size_t cls) {
    const Cost* const costs = problem_.costs.data();
    const std::size_t old = option_[cls];
    std::size_t best = old;
    double least = excess(nullptr, nullptr);
    for (std::size_t i = problem_.offsets[cls]; i < problem_.offsets[cls + 1]; ++i) {
        const double beyond = excess(costs + old * left_.size(), costs + i * left_.size());
        if (beyond > least) continue;
        if (beyond == least && problem_.values[i] >= problem_.values[best]) continue;
        least = beyond;
        best = i;
    }
    for (std::size_t d = 0; d < left_.size(); ++d)
        left_[d] += costs[old * left_.size() + d] - costs[best * left_.size() + d];
    option_[cls] = best;
    return best != old;
}

void Repair::sweep() {
    bool changed = true;
    for (int i = 0; changed && i < mostSweeps; ++i) {
        changed = false;
        watch_.poll();
        visits_ += problem_.values.size();
        for (std::size_t cls = 0; cls < option_.size(); ++cls) changed = exchange(cls) || changed;
    }
}

}  // namespace

std::optional<std::vector<std::size_t>> findWithin(const Problem& problem,
                                                   std::span<const Cost> budgets,
                                                   const std::vector<double>& multipliers,
                                                   Watch& watch) {
    Repair repair(problem, budgets, watch);
    const double range = valueRange(problem);
    const auto price = [&](std::size_t d, double rise) {
        return multipliers[d] + rise * range * repair.share(d, 1);
    };
    std::vector<double> prices(multipliers);
    for (int power = leastPower; power <= mostPower && repair.goesOn(); ++power) {
        repair.start(minimiseLagrangian(problem, prices));
        if (repair.fits()) break;
        for (std::size_t d = 0; d < prices.size(); ++d)
            prices[d] = price(d, std::ldexp(1.0, power));
    }
    std::vector<double> rises(prices.size(), std::ldexp(1.0, mostPower));
    for (int round = 0; round < priceRounds && (round == 0 || repair.goesOn()); ++round) {
        std::vector<double> exceeded(prices.size());
        for (std::size_t d = 0; d < prices.size(); ++d)
            exceeded[d] = std::clamp(repair.share(d, -repair.left(d)), -1.0, 1.0);
        repair.sweep();
        if (repair.fits()) return repair.option();
        for (std::size_t d = 0; d < prices.size(); ++d) {
            rises[d] *= exponential(exceeded[d]);
            prices[d] = price(d, rises[d]);
        }
        repair.start(minimiseLagrangian(problem, prices));
    }
    return std::nullopt;
}

}  // namespace rdprune
