#include "joint_rounding.h"

#include <algorithm>

namespace rdprune {

namespace {

constexpr std::size_t stepBytes = std::size_t{1} << 16;

std::vector<double> sumUp(const JointProblem& problem, const Mixture& mixture) {
    std::vector<double> residual = problem.offset;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls)
        for (std::size_t i = 0; i < problem.width; ++i)
            residual[i] += mixture.means[cls * problem.width + i];
    return residual;
}

// Step length in [0, 1] towards an allocation that minimises |residual|^2 + t * variances.
double lineSearch(const JointProblem& problem, const Mixture& mixture,
                  const std::vector<double>& residual, const std::vector<std::size_t>& option,
                  double t) {
    const std::size_t width = problem.width;
    std::vector<double> total(width, 0.0);
    std::vector<double> difference(width);
    double slope = 0.0;
    double curvature = 0.0;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        const double* mean = mixture.means.data() + cls * width;
        const double* response = problem.response(option[cls]);
        for (std::size_t i = 0; i < width; ++i) {
            difference[i] = response[i] - mean[i];
            total[i] += difference[i];
        }
        slope += t * (problem.squares[option[cls]] - mixture.squares[cls] -
                      2.0 * dot(mean, difference.data(), width));
        curvature -= t * dot(difference.data(), difference.data(), width);
    }
    slope += 2.0 * dot(residual.data(), total.data(), width);
    curvature += dot(total.data(), total.data(), width);
    if (slope >= 0.0) return 0.0;
    if (slope + 2.0 * curvature <= 0.0) return 1.0;
    return -slope / (2.0 * curvature);
}

}  // namespace

void moveTowards(const JointProblem& problem, Mixture& mixture,
                 const std::vector<std::size_t>& option, double share) {
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        double* mean = mixture.means.data() + cls * problem.width;
        const double* response = problem.response(option[cls]);
        for (std::size_t i = 0; i < problem.width; ++i) mean[i] += share * (response[i] - mean[i]);
        mixture.squares[cls] += share * (problem.squares[option[cls]] - mixture.squares[cls]);
    }
}

Mixture mix(const JointProblem& problem, const JointRelaxation& relaxation) {
    Mixture mixture{std::vector<double>(problem.classes() * problem.width, 0.0),
                    std::vector<double>(problem.classes(), 0.0)};
    const auto add = [&](std::size_t cls, std::size_t option, double weight) {
        const double* response = problem.response(option);
        for (std::size_t i = 0; i < problem.width; ++i)
            mixture.means[cls * problem.width + i] += weight * response[i];
        mixture.squares[cls] += weight * problem.squares[option];
    };
    for (std::size_t v = 0; v < relaxation.vertices.size(); ++v) {
        const Vertex& vertex = relaxation.vertices[v];
        for (std::size_t cls = 0; cls < problem.classes(); ++cls)
            add(cls, vertex.option[cls], relaxation.weights[v]);
        const double share = relaxation.weights[v] * vertex.share;
        add(vertex.cls, vertex.other, share);
        add(vertex.cls, vertex.option[vertex.cls], -share);
    }
    return mixture;
}

std::optional<JointPoint> roundGradually(const JointProblem& problem, const Surrogate& surrogate,
                                         Mixture mixture, std::size_t steps, Watch& watch) {
    std::vector<double> gradient(problem.options.size());
    std::vector<double> pull(problem.width);
    std::optional<JointPoint> best;
    for (std::size_t step = 1; step <= steps && !watch.expired(); ++step) {
        const double t = static_cast<double>(step) / static_cast<double>(steps);
        const std::vector<double> residual = sumUp(problem, mixture);
        for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
            const double* mean = mixture.means.data() + cls * problem.width;
            for (std::size_t i = 0; i < problem.width; ++i) pull[i] = residual[i] - t * mean[i];
            const std::size_t begin = problem.offsets[cls];
            const std::size_t end = problem.offsets[cls + 1];
            products(pull.data(), problem.response(begin), end - begin, problem.width,
                     gradient.data() + begin);
            for (std::size_t i = begin; i < end; ++i)
                gradient[i] = 2.0 * gradient[i] + t * problem.squares[i];
        }
        const auto answer = surrogate.relaxed(gradient, watch, stepBytes);
        if (!answer) break;
        JointPoint point = makePoint(problem, answer->feasible);
        if (!best || isBetter(problem, point, *best)) best = std::move(point);
        const double length = lineSearch(problem, mixture, residual, answer->feasible, t);
        moveTowards(problem, mixture, answer->feasible, length);
    }
    return best;
}

}  // namespace rdprune
