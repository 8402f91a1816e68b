#include "joint_gram.h"

#include <algorithm>
#include <limits>

namespace rdprune {

GramProblem makeGram(const JointProblem& problem, const std::vector<std::size_t>& options) {
    GramProblem gram;
    const std::size_t dimensions = problem.dimensions;
    gram.dimensions = dimensions;
    gram.source = options;
    gram.offsets.assign(1, 0);
    for (const std::size_t option : options) {
        const std::size_t cls = problem.classFor[option];
        if (cls == gram.offsets.size()) gram.offsets.push_back(gram.classFor.size());
        gram.classFor.push_back(cls);
        const auto cost = problem.costs.begin() + static_cast<std::ptrdiff_t>(option * dimensions);
        gram.costs.insert(gram.costs.end(), cost, cost + static_cast<std::ptrdiff_t>(dimensions));
        gram.linear.push_back(dot(problem.offset.data(), problem.response(option), problem.width));
    }
    gram.offsets.push_back(options.size());
    gram.gram.resize(options.size() * options.size());
    for (std::size_t i = 0; i < options.size(); ++i)
        for (std::size_t j = 0; j <= i; ++j) {
            const double product =
                dot(problem.response(options[i]), problem.response(options[j]), problem.width);
            gram.gram[i * options.size() + j] = product;
            gram.gram[j * options.size() + i] = product;
        }
    return gram;
}

std::vector<std::size_t> shortlist(const JointProblem& problem, const JointPoint& point,
                                   const std::vector<double>& changes,
                                   const std::vector<double>& multipliers, std::size_t count) {
    std::vector<std::size_t> options;
    std::vector<std::pair<double, std::size_t>> ranked;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        ranked.clear();
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            double rank = changes[i];
            for (std::size_t d = 0; d < problem.dimensions; ++d)
                rank +=
                    multipliers[d] * static_cast<double>(problem.costs[i * problem.dimensions + d]);
            if (i == point.option[cls]) rank = -std::numeric_limits<double>::infinity();
            ranked.emplace_back(rank, i);
        }
        const std::size_t kept = std::min(count, ranked.size());
        std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(kept),
                          ranked.end());
        const std::size_t begin = options.size();
        for (std::size_t i = 0; i < kept; ++i) options.push_back(ranked[i].second);
        std::sort(options.begin() + static_cast<std::ptrdiff_t>(begin), options.end());
    }
    return options;
}

}  // namespace rdprune
