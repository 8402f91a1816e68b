#include "joint_exact.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "joint_gram.h"
#include "joint_rounding.h"

namespace rdprune {

namespace {

constexpr double costMargin = 0x1p-44;
constexpr double lengthMargin = 1.0 + 0x1p-40;
constexpr std::size_t watchEvery = 1024;  // nodes

// Whether <y, r> >= `product` (up to `margin`) and |y|^2 = `square` exclude |r|^2 <= `best`.
bool excludes(double product, double margin, double square, double best) {
    const double least = product - margin;
    return least > 0.0 && least * least > square * best * lengthMargin;
}

// lambda . cost of every option, its least and its margin.
struct Prices {
    std::vector<double> multipliers;
    std::vector<double> option;
    double budget = 0.0;  // lambda . B
    double margin = 0.0;
};

Prices priceOptions(const JointProblem& problem, std::span<const Cost> budgets,
                    std::vector<double> multipliers) {
    Prices prices{std::move(multipliers), std::vector<double>(problem.options.size(), 0.0), 0, 0};
    for (std::size_t d = 0; d < problem.dimensions; ++d) {
        const double multiplier = prices.multipliers[d];
        prices.budget += multiplier * static_cast<double>(budgets[d]);
        for (std::size_t i = 0; i < prices.option.size(); ++i)
            prices.option[i] +=
                multiplier * static_cast<double>(problem.costs[i * problem.dimensions + d]);
    }
    double most = prices.budget;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        const auto begin = prices.option.begin();
        most += *std::max_element(begin + static_cast<std::ptrdiff_t>(problem.offsets[cls]),
                                  begin + static_cast<std::ptrdiff_t>(problem.offsets[cls + 1]));
    }
    prices.margin = costMargin * most;
    return prices;
}

// Options that the relaxation does not exclude; the known allocation's always.
std::vector<std::size_t> remaining(const JointProblem& problem, const JointPoint& known,
                                   const std::vector<double>& x, const Prices& prices) {
    std::vector<double> priced(problem.options.size());
    double product = dot(x.data(), problem.offset.data(), problem.width) - prices.budget;
    std::vector<double> least(problem.classes());
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            priced[i] = dot(x.data(), problem.response(i), problem.width) + prices.option[i];
            if (i == problem.offsets[cls] || priced[i] < least[cls]) least[cls] = priced[i];
        }
        product += least[cls];
    }
    const double square = dot(x.data(), x.data(), problem.width);
    const double margin = problem.rounding(std::sqrt(square), problem.size) + prices.margin;
    std::vector<std::size_t> options;
    for (std::size_t i = 0; i < priced.size(); ++i) {
        const std::size_t cls = problem.classFor[i];
        if (known.option[cls] == i ||
            !excludes(product - least[cls] + priced[i], margin, square, known.square))
            options.push_back(i);
    }
    return options;
}

class DepthFirst {
public:
    DepthFirst(const JointProblem& problem, const GramProblem& gram, const Mixture& relaxed,
               const Prices& prices, std::span<const Cost> budgets, JointExact& result,
               std::size_t work, Watch& watch)
        : problem_(problem),
          gram_(gram),
          prices_(prices),
          result_(result),
          work_(work),
          watch_(watch),
          noise_(4.0 * problem.rounding(problem.size, problem.size)) {
        orderClasses();
        prepareBounds(relaxed);
        const std::size_t classes = order_.size();
        option_.resize(classes);
        slack_.assign(classes + 1, std::vector<Cost>(budgets.begin(), budgets.end()));
        pull_.assign(classes + 1, gram.linear);
        offsetSquare_ = dot(problem.offset.data(), problem.offset.data(), problem.width);
    }

    [[nodiscard]] bool run() { return descend(0, offsetSquare_); }

private:
    // Long responses first: what is decided last should matter least.
    void orderClasses() {
        std::vector<double> longest;
        for (std::size_t cls = 0; cls + 1 < gram_.offsets.size(); ++cls) {
            double most = 0.0;
            for (std::size_t i = gram_.offsets[cls]; i < gram_.offsets[cls + 1]; ++i)
                most = std::max(most, gram_.row(i)[i]);
            longest.push_back(gram_.offsets[cls + 1] - gram_.offsets[cls] > 1 ? most : -1.0);
        }
        order_.resize(longest.size());
        std::iota(order_.begin(), order_.end(), std::size_t{0});
        std::stable_sort(order_.begin(), order_.end(),
                         [&](std::size_t a, std::size_t b) { return longest[a] > longest[b]; });
    }
    // For each level the sum of the relaxed means of the classes to come, by its products.
    void prepareBounds(const Mixture& relaxed) {
        const std::size_t levels = order_.size() + 1;
        rest_.assign(levels, std::vector<double>(gram_.size(), 0.0));
        restOffset_.assign(levels, 0.0);
        restSquare_.assign(levels, 0.0);
        leastCost_.assign(levels, std::vector<Cost>(gram_.dimensions, 0));
        std::vector<double> sum(problem_.width, 0.0);
        for (std::size_t level = order_.size(); level-- > 0;) {
            const std::size_t cls = order_[level];
            for (std::size_t i = 0; i < problem_.width; ++i)
                sum[i] += relaxed.means[cls * problem_.width + i];
            for (std::size_t i = 0; i < gram_.size(); ++i)
                rest_[level][i] =
                    dot(sum.data(), problem_.response(gram_.source[i]), problem_.width);
            restOffset_[level] = dot(sum.data(), problem_.offset.data(), problem_.width);
            restSquare_[level] = dot(sum.data(), sum.data(), problem_.width);
            leastCost_[level] = leastCost_[level + 1];
            for (std::size_t d = 0; d < gram_.dimensions; ++d) {
                Cost least = gram_.costs[gram_.offsets[cls] * gram_.dimensions + d];
                for (std::size_t i = gram_.offsets[cls]; i < gram_.offsets[cls + 1]; ++i)
                    least = std::min(least, gram_.costs[i * gram_.dimensions + d]);
                leastCost_[level][d] += least;
            }
        }
    }

    [[nodiscard]] bool outOfReach(std::size_t level) const {
        for (std::size_t d = 0; d < gram_.dimensions; ++d)
            if (slack_[level][d] < leastCost_[level][d]) return true;
        return false;
    }
    // Whether no completion can be as short as the best; `square` is |r_p|^2.
    [[nodiscard]] bool tooLong(std::size_t level, double square) const {
        double rest = restOffset_[level];  // <r_p, sum of means>
        for (std::size_t before = 0; before < level; ++before)
            rest += rest_[level][option_[before]];
        double product = square + rest;
        for (std::size_t d = 0; d < gram_.dimensions; ++d)
            product -= prices_.multipliers[d] * static_cast<double>(slack_[level][d]);
        const std::vector<double>& pull = pull_[level];
        const std::vector<double>& means = rest_[level];
        for (std::size_t next = level; next < order_.size(); ++next) {
            const std::size_t cls = order_[next];
            double least = std::numeric_limits<double>::infinity();
            for (std::size_t i = gram_.offsets[cls]; i < gram_.offsets[cls + 1]; ++i)
                least = std::min(least, pull[i] + means[i] + prices_.option[gram_.source[i]]);
            product += least;
        }
        const double length = square + 2.0 * rest + restSquare_[level];
        return excludes(product, noise_ + prices_.margin, std::max(length, 0.0) + noise_,
                        result_.best.square);
    }
    void compare() {
        std::vector<std::size_t> option(order_.size());
        for (std::size_t level = 0; level < order_.size(); ++level)
            option[order_[level]] = gram_.source[option_[level]];
        JointPoint point = makePoint(problem_, std::move(option));
        if (isBetter(problem_, point, result_.best)) result_.best = std::move(point);
    }
    // False if a limit ended the search.
    [[nodiscard]] bool descend(std::size_t level, double square) {
        ++result_.nodes;
        if (result_.nodes % watchEvery == 0 && watch_.expired()) return false;
        const std::size_t cls = order_[level];
        const std::vector<double>& pull = pull_[level];
        const bool last = level + 1 == order_.size();
        const std::size_t cost = last ? 1 : gram_.size();
        for (std::size_t i = gram_.offsets[cls]; i < gram_.offsets[cls + 1]; ++i) {
            if (work_ < cost) return false;
            work_ -= cost;
            option_[level] = i;
            for (std::size_t d = 0; d < gram_.dimensions; ++d)
                slack_[level + 1][d] = slack_[level][d] - gram_.costs[i * gram_.dimensions + d];
            if (outOfReach(level + 1)) continue;
            const double total = square + 2.0 * pull[i] + gram_.row(i)[i];
            if (last) {
                if (total <= result_.best.square + noise_) compare();
                continue;
            }
            std::vector<double>& after = pull_[level + 1];
            for (std::size_t j = 0; j < after.size(); ++j) after[j] = pull[j] + gram_.row(i)[j];
            if (tooLong(level + 1, total)) continue;
            if (!descend(level + 1, total)) return false;
        }
        return true;
    }

    const JointProblem& problem_;
    const GramProblem& gram_;
    const Prices& prices_;
    JointExact& result_;
    std::size_t work_;
    Watch& watch_;
    double noise_;
    double offsetSquare_ = 0.0;
    std::vector<std::size_t> order_;            // levels
    std::vector<std::size_t> option_;           // levels
    std::vector<std::vector<Cost>> slack_;      // levels + 1
    std::vector<std::vector<double>> pull_;     // levels + 1; <r_p, v> of every option
    std::vector<std::vector<double>> rest_;     // levels + 1; <sum of means to come, v>
    std::vector<double> restOffset_;            // levels + 1
    std::vector<double> restSquare_;            // levels + 1
    std::vector<std::vector<Cost>> leastCost_;  // levels + 1
};

}  // namespace

JointExact provedOptimum(const JointProblem& problem, const Surrogate& surrogate,
                         std::span<const Cost> budgets, const JointPoint& known,
                         const JointRelaxation& relaxation, std::size_t work, Watch& watch) {
    JointExact result{known, false, 0};
    const std::vector<double>& x = relaxation.residual;
    std::vector<double> along(problem.options.size());
    products(x.data(), problem.response(0), along.size(), problem.width, along.data());
    const auto answer = surrogate.minimise(along, watch, std::size_t{1} << 16);
    if (!answer) return result;
    const Prices prices = priceOptions(problem, budgets, answer->multipliers);
    const std::vector<std::size_t> options = remaining(problem, known, x, prices);
    const std::size_t levels = problem.classes() + 1;
    const std::size_t products = options.size() * (options.size() + 2 * levels);
    if (products * problem.width > work || products * sizeof(double) > watch.bytes()) return result;
    const GramProblem gram = makeGram(problem, options);
    DepthFirst search(problem, gram, mix(problem, relaxation), prices, budgets, result, work,
                      watch);
    result.complete = search.run();
    return result;
}

}  // namespace rdprune
