#include "multipliers.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rdprune {

namespace {

constexpr int maxIterations = 400;
constexpr double tolerance = 1e-12;
constexpr double penalty = 1e5;  // for exceeding a budget by its own size, in value ranges

// The master problem in scaled units: budgets are 1, the range of values is 1.
class Master {
public:
    explicit Master(std::size_t dimensions)
        : rows_(dimensions + 1), inverse_(rows_ * rows_, 0.0), cost_(rows_, 0.0), x_(rows_, 0.0) {}

    // Basis of one allocation and, for each budget, its slack or its excess.
    void start(const std::vector<double>& column, double value) {
        for (std::size_t i = 0; i + 1 < rows_; ++i) {
            const double slack = 1.0 - column[i];
            const double sign = slack >= 0.0 ? 1.0 : -1.0;
            at(i, i) = sign;
            at(i, rows_ - 1) = -sign * column[i];
            cost_[i] = slack >= 0.0 ? 0.0 : penalty;
            x_[i] = std::abs(slack);
        }
        at(rows_ - 1, rows_ - 1) = 1.0;
        cost_[rows_ - 1] = value;
        x_[rows_ - 1] = 1.0;
    }
    [[nodiscard]] std::vector<double> prices() const {
        std::vector<double> prices(rows_, 0.0);
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < rows_; ++j) prices[j] += cost_[i] * at(i, j);
        return prices;
    }
    // Brings a column into the basis; false if it does not bound the step.
    bool enter(const std::vector<double>& column, double value) {
        std::vector<double> direction(rows_, 0.0);
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < rows_; ++j) direction[i] += at(i, j) * column[j];
        std::size_t leaving = rows_;
        double step = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < rows_; ++i)
            if (direction[i] > tolerance && x_[i] / direction[i] < step) {
                step = x_[i] / direction[i];
                leaving = i;
            }
        if (leaving == rows_) return false;
        for (std::size_t j = 0; j < rows_; ++j) at(leaving, j) /= direction[leaving];
        x_[leaving] = step;
        for (std::size_t i = 0; i < rows_; ++i) {
            if (i == leaving) continue;
            for (std::size_t j = 0; j < rows_; ++j) at(i, j) -= direction[i] * at(leaving, j);
            x_[i] = std::max(x_[i] - direction[i] * step, 0.0);
        }
        cost_[leaving] = value;
        return true;
    }

private:
    double& at(std::size_t i, std::size_t j) { return inverse_[i * rows_ + j]; }
    [[nodiscard]] double at(std::size_t i, std::size_t j) const { return inverse_[i * rows_ + j]; }

    std::size_t rows_;
    std::vector<double> inverse_;
    std::vector<double> cost_;
    std::vector<double> x_;
};

struct Totals {
    std::vector<double> column;  // costs over budgets, and 1 for convexity
    double value = 0.0;
};

}  // namespace

double valueRange(const Problem& problem) {
    double range = 0.0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const auto first =
            problem.values.begin() + static_cast<std::ptrdiff_t>(problem.offsets[cls]);
        const auto last =
            problem.values.begin() + static_cast<std::ptrdiff_t>(problem.offsets[cls + 1]);
        const auto [least, most] = std::minmax_element(first, last);
        range += toDouble(*most - *least);
    }
    return range > 0.0 ? range : 1.0;
}

std::vector<std::size_t> minimiseLagrangian(const Problem& problem,
                                            const std::vector<double>& multipliers,
                                            std::span<const std::size_t> origins) {
    std::vector<std::size_t> best(problem.size());
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        // Of differences: what all options of a class have in common may dwarf them.
        const std::size_t origin = origins.empty() ? problem.offsets[cls] : origins[cls];
        double least = 0.0;
        best[cls] = origin;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            double value = toDouble(problem.values[i] - problem.values[origin]);
            for (std::size_t d = 0; d < problem.dimensions; ++d)
                value += multipliers[d] *
                         static_cast<double>(problem.costs[i * problem.dimensions + d] -
                                             problem.costs[origin * problem.dimensions + d]);
            if (value < least) {
                least = value;
                best[cls] = i;
            }
        }
    }
    return best;
}

std::vector<double> findMultipliers(const Problem& problem, std::span<const Cost> budgets,
                                    Watch& watch) {
    const std::size_t dimensions = problem.dimensions;
    const double range = valueRange(problem);
    std::vector<double> unit(dimensions);  // budgets as doubles, never zero
    for (std::size_t d = 0; d < dimensions; ++d)
        unit[d] = static_cast<double>(std::max<Cost>(budgets[d], 1));
    const auto totals = [&](const std::vector<std::size_t>& options) {
        Totals sum{std::vector<double>(dimensions + 1, 0.0), 0.0};
        sum.column[dimensions] = 1.0;
        for (std::size_t cls = 0; cls < problem.size(); ++cls) {
            const std::size_t option = options[cls];
            const Value origin = problem.values[problem.offsets[cls]];
            sum.value += toDouble(problem.values[option] - origin) / range;
            for (std::size_t d = 0; d < dimensions; ++d)
                sum.column[d] +=
                    static_cast<double>(problem.costs[option * dimensions + d]) / unit[d];
        }
        return sum;
    };
    const auto scaled = [&](const std::vector<double>& prices) {
        std::vector<double> multipliers(dimensions);
        for (std::size_t d = 0; d < dimensions; ++d)
            multipliers[d] = std::max(-prices[d], 0.0) * range / unit[d];
        return multipliers;
    };
    Master master(dimensions);
    const Totals cheapest =
        totals(minimiseLagrangian(problem, scaled(std::vector<double>(dimensions, -penalty))));
    master.start(cheapest.column, cheapest.value);
    std::vector<double> best(dimensions, 0.0);
    double bestDual = -std::numeric_limits<double>::infinity();
    for (int iteration = 0; iteration < maxIterations && !watch.expired(); ++iteration) {
        const std::vector<double> prices = master.prices();
        const std::vector<double> multipliers = scaled(prices);
        const Totals sum = totals(minimiseLagrangian(problem, multipliers));
        double lagrangian = sum.value;
        double dual = sum.value;
        std::size_t slack = dimensions;
        for (std::size_t d = 0; d < dimensions; ++d) {
            lagrangian -= prices[d] * sum.column[d];
            dual += std::max(-prices[d], 0.0) * (sum.column[d] - 1.0);
            if (prices[d] > tolerance && (slack == dimensions || prices[d] > prices[slack]))
                slack = d;
        }
        if (dual > bestDual) {
            bestDual = dual;
            best = multipliers;
        }
        if (slack < dimensions) {  // a budget with a price of the wrong sign: let it be slack
            std::vector<double> column(dimensions + 1, 0.0);
            column[slack] = 1.0;
            if (!master.enter(column, 0.0)) break;
        } else if (lagrangian - prices[dimensions] > -tolerance * (1.0 + std::abs(dual)) ||
                   !master.enter(sum.column, sum.value)) {
            break;
        }
    }
    return best;
}

double lagrangianScale(const Problem& problem, const std::vector<double>& multipliers) {
    double scale = 0.0;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        double largest = 0.0;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            double size = std::abs(static_cast<double>(problem.values[i]));
            for (std::size_t d = 0; d < problem.dimensions; ++d)
                size +=
                    multipliers[d] * static_cast<double>(problem.costs[i * problem.dimensions + d]);
            largest = std::max(largest, size);
        }
        scale += largest;
    }
    return scale;
}

}  // namespace rdprune
