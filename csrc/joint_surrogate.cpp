#include "joint_surrogate.h"

#include <algorithm>
#include <numeric>

namespace rdprune {

namespace {

constexpr double improvement = 1.0 - 0x1p-40;
constexpr double strongestDamping = 64.0;
constexpr int mostSteps = 100;
constexpr std::size_t stepBytes = std::size_t{1} << 16;
constexpr std::size_t vectorBytes = std::size_t{1} << 22;  // what a beam takes with several budgets

}  // namespace

Surrogate::Surrogate(const JointProblem& problem, std::span<const Cost> budgets,
                     const Limits& limits)
    : problem_(problem),
      budgets_(budgets),
      limits_(limits),
      offsets_(problem.offsets.begin(), problem.offsets.end()),
      groups_(problem.classes()),
      allowed_(problem.options.size(), 1) {
    std::iota(groups_.begin(), groups_.end(), Index{0});
    if (problem.dimensions == 1) linear_.emplace(problem, budgets[0]);
}

std::optional<Surrogate::Answer> Surrogate::minimise(std::span<const Distortion> distortions,
                                                     Watch& watch, std::size_t bytes) const {
    const Instance instance{problem_.costs, distortions, offsets_,
                            allowed_,       groups_,     problem_.dimensions};
    const std::size_t enough = problem_.dimensions > 1 ? std::max(bytes, vectorBytes) : bytes;
    const Limits limits{watch.left(), std::min(enough, limits_.bytes), limits_.poll};
    try {
        Solution solution = std::move(solve(instance, budgets_, limits).front());
        Answer answer{{}, std::move(solution.multipliers), 0.0};
        answer.option.reserve(problem_.classes());
        for (std::size_t cls = 0; cls < problem_.classes(); ++cls) {
            answer.option.push_back(problem_.offsets[cls] +
                                    static_cast<std::size_t>(solution.choice[cls]));
            answer.lowerBound += distortions[answer.option.back()];
        }
        if (!solution.optimal) answer.lowerBound = solution.lowerBound;
        return answer;
    } catch (const InfeasibleBudget&) {
        throw;
    } catch (const std::runtime_error&) {
        return std::nullopt;
    }
}

std::optional<Vertex> Surrogate::relaxed(std::span<const double> distortions, Watch& watch,
                                         std::size_t bytes) const {
    if (linear_) {
        if (linear_->leastCost() > budgets_[0]) throw InfeasibleBudget({linear_->leastCost()});
        return linear_->minimise(distortions);
    }
    auto answer = minimise(distortions, watch, bytes);
    if (!answer) return std::nullopt;
    Vertex vertex = toVertex(std::move(answer->option));
    vertex.lowerBound = answer->lowerBound;
    return vertex;
}

std::vector<double> singleChanges(const JointProblem& problem, const JointPoint& point,
                                  std::vector<double>& distances) {
    std::vector<double> changes(problem.options.size());
    distances.resize(changes.size());
    std::vector<double> there;
    std::vector<double> both;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        const std::size_t chosen = point.option[cls];
        const double* current = problem.response(chosen);
        const std::size_t begin = problem.offsets[cls];
        const std::size_t count = problem.offsets[cls + 1] - begin;
        there.resize(count);
        both.resize(count);
        products(point.residual.data(), problem.response(begin), count, problem.width,
                 there.data());
        products(current, problem.response(begin), count, problem.width, both.data());
        const double here = there[chosen - begin] + problem.own[chosen];
        for (std::size_t k = 0; k < count; ++k) {
            const std::size_t i = begin + k;
            const double square = problem.squares[i] + problem.squares[chosen] - 2.0 * both[k];
            distances[i] = i == chosen ? 0.0 : std::max(square, 0.0);
            changes[i] = i == chosen ? 0.0 : 2.0 * (there[k] - here) + distances[i];
        }
    }
    return changes;
}

Descent descend(const JointProblem& problem, const Surrogate& surrogate, JointPoint point,
                Watch& watch) {
    Descent descent{std::move(point), std::vector<double>(problem.dimensions, 0.0), {}};
    std::vector<double> distances;
    std::vector<double> surrogates;
    double damping = 1.0;
    descent.changes = singleChanges(problem, descent.point, distances);
    for (int step = 0; step < mostSteps && damping <= strongestDamping; ++step) {
        if (watch.expired()) break;
        surrogates = descent.changes;
        for (std::size_t i = 0; i < surrogates.size(); ++i)
            surrogates[i] += (damping - 1.0) * distances[i];
        const auto answer = surrogate.minimise(surrogates, watch, stepBytes);
        if (!answer) break;
        if (damping == 1.0) descent.multipliers = answer->multipliers;
        if (answer->option == descent.point.option) break;
        JointPoint next = makePoint(problem, answer->option);
        if (next.square < descent.point.square * improvement) {
            descent.point = std::move(next);
            descent.changes = singleChanges(problem, descent.point, distances);
            damping = std::max(damping / 2.0, 1.0);
        } else {
            damping *= 2.0;
        }
    }
    return descent;
}

}  // namespace rdprune
