#include "joint_bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rdprune {

namespace {

constexpr double precision = 1e-3;   // of the relaxation's value, at which it is done
constexpr double negligible = 1e-3;  // of the value known, below which a bound is of no use
constexpr std::size_t oracleBytes = std::size_t{1} << 18;
constexpr std::size_t exactOracleBytes = std::size_t{1} << 22;

// Points, and the factor of (G + s 11^T) for their Gram matrix G.
class Corral {
public:
    explicit Corral(std::size_t width) : width_(width) {}

    void add(const Vertex& vertex, std::vector<double> residual) {
        points_.push_back(std::move(residual));
        vertices_.push_back(vertex);
        weights_.push_back(weights_.empty() ? 1.0 : 0.0);
        if (points_.size() == 1) {
            const double square = dot(points_[0].data(), points_[0].data(), width_);
            shift_ = std::max(square, std::numeric_limits<double>::min());
        }
        std::vector<double> row;
        for (const auto& other : points_)
            row.push_back(dot(other.data(), points_.back().data(), width_));
        gram_.push_back(std::move(row));
        factorFrom(points_.size() - 1);
    }
    [[nodiscard]] bool holds(const Vertex& vertex) const {
        return std::any_of(vertices_.begin(), vertices_.end(), [&](const auto& other) {
            return other.option == vertex.option && other.other == vertex.other &&
                   other.share == vertex.share;
        });
    }

    // Moves to the shortest vector of the points' hull, dropping points of no weight.
    void correct() {
        while (points_.size() > 1) {
            const std::vector<double> target = affineWeights();
            double step = 1.0;
            for (std::size_t i = 0; i < target.size(); ++i)
                if (target[i] <= 0.0)
                    step = std::min(step, weights_[i] / (weights_[i] - target[i]));
            for (std::size_t i = 0; i < target.size(); ++i)
                weights_[i] = std::max((1.0 - step) * weights_[i] + step * target[i], 0.0);
            if (step == 1.0) break;
            // At least the point that stopped the step goes.
            std::size_t least = 0;
            for (std::size_t i = 0; i < target.size(); ++i)
                if (target[i] <= 0.0 && (target[least] > 0.0 || weights_[i] < weights_[least]))
                    least = i;
            weights_[least] = 0.0;
            dropWeightless();
        }
        normalise();
    }
    [[nodiscard]] std::vector<double> vector() const {
        std::vector<double> sum(width_, 0.0);
        for (std::size_t p = 0; p < points_.size(); ++p)
            for (std::size_t i = 0; i < width_; ++i) sum[i] += weights_[p] * points_[p][i];
        return sum;
    }
    [[nodiscard]] const std::vector<Vertex>& vertices() const { return vertices_; }
    [[nodiscard]] const std::vector<double>& weights() const { return weights_; }

private:
    // Weights of the shortest vector of the points' affine hull.
    [[nodiscard]] std::vector<double> affineWeights() const {
        std::vector<double> x(points_.size(), 1.0);
        for (std::size_t i = 0; i < x.size(); ++i) {
            for (std::size_t j = 0; j < i; ++j) x[i] -= factor_[i][j] * x[j];
            x[i] /= factor_[i][i];
        }
        for (std::size_t i = x.size(); i-- > 0;) {
            x[i] /= factor_[i][i];
            for (std::size_t j = 0; j < i; ++j) x[j] -= factor_[i][j] * x[i];
        }
        double sum = 0.0;
        for (const double value : x) sum += value;
        for (double& value : x) value /= sum;
        return x;
    }
    void factorFrom(std::size_t first) {
        factor_.resize(first);
        for (std::size_t i = first; i < points_.size(); ++i) {
            std::vector<double> row(i + 1);
            for (std::size_t j = 0; j <= i; ++j) {
                double sum = gram_[i][j] + shift_;
                const std::vector<double>& other = j < i ? factor_[j] : row;
                for (std::size_t k = 0; k < j; ++k) sum -= row[k] * other[k];
                const double floor = 1e-12 * (gram_[i][i] + shift_);
                row[j] = j < i ? sum / factor_[j][j] : std::sqrt(std::max(sum, floor));
            }
            factor_.push_back(std::move(row));
        }
    }
    void dropWeightless() {
        std::size_t first = points_.size();
        for (std::size_t i = points_.size(); i-- > 0;) {
            if (weights_[i] > 0.0) continue;
            const auto at = static_cast<std::ptrdiff_t>(i);
            points_.erase(points_.begin() + at);
            vertices_.erase(vertices_.begin() + at);
            weights_.erase(weights_.begin() + at);
            gram_.erase(gram_.begin() + at);
            for (std::size_t j = i; j < gram_.size(); ++j) gram_[j].erase(gram_[j].begin() + at);
            first = i;
        }
        factorFrom(first);
    }
    void normalise() {
        double sum = 0.0;
        for (const double weight : weights_) sum += weight;
        for (double& weight : weights_) weight /= sum;
    }

    std::size_t width_;
    double shift_ = 1.0;
    std::vector<std::vector<double>> points_;
    std::vector<Vertex> vertices_;
    std::vector<double> weights_;
    std::vector<std::vector<double>> gram_;    // lower triangle
    std::vector<std::vector<double>> factor_;  // lower triangle
};

std::vector<double> vertexResidual(const JointProblem& problem, const Vertex& vertex) {
    std::vector<double> residual = makePoint(problem, vertex.option).residual;
    const double* from = problem.response(vertex.option[vertex.cls]);
    const double* to = problem.response(vertex.other);
    for (std::size_t i = 0; i < problem.width; ++i) residual[i] += vertex.share * (to[i] - from[i]);
    return residual;
}

// What a lower bound on the sum of <x, v> proves for the square of every allocation's residual.
double proved(const JointProblem& problem, const std::vector<double>& x, double square,
              double lowerBound) {
    const double least = lowerBound + dot(x.data(), problem.offset.data(), problem.width) -
                         problem.rounding(std::sqrt(square), problem.size);
    return least <= 0.0 ? 0.0 : least * least / square * (1.0 - 0x1p-50);
}

}  // namespace

JointRelaxation relaxJoint(const JointProblem& problem, const Surrogate& surrogate,
                           const std::vector<Vertex>& starts, double known, std::size_t iterations,
                           Watch& watch) {
    JointRelaxation relaxation;
    Corral corral(problem.width);
    for (const Vertex& start : starts) {
        corral.add(start, vertexResidual(problem, start));
        corral.correct();
    }
    relaxation.residual = corral.vector();
    std::vector<double> along(problem.options.size());
    std::vector<double> bestAlong;
    std::vector<double> direction;
    for (std::size_t iteration = 0; iteration < iterations && !watch.expired(); ++iteration) {
        const std::vector<double>& x = relaxation.residual;
        const double square = dot(x.data(), x.data(), problem.width);
        if (square <= negligible * known) break;
        products(x.data(), problem.response(0), along.size(), problem.width, along.data());
        const auto vertex = surrogate.relaxed(along, watch, oracleBytes);
        if (!vertex) break;
        const double bound = proved(problem, x, square, vertex->lowerBound);
        if (bound > relaxation.bound) {
            relaxation.bound = bound;
            bestAlong = along;
            direction = x;
        }
        if (bound >= square * (1.0 - precision) || corral.holds(*vertex)) break;
        corral.add(*vertex, vertexResidual(problem, *vertex));
        corral.correct();
        relaxation.residual = corral.vector();
    }
    relaxation.vertices = corral.vertices();
    relaxation.weights = corral.weights();
    if (direction.empty() || watch.expired()) return relaxation;
    if (const auto answer = surrogate.minimise(bestAlong, watch, exactOracleBytes)) {
        const double square = dot(direction.data(), direction.data(), problem.width);
        relaxation.bound =
            std::max(relaxation.bound, proved(problem, direction, square, answer->lowerBound));
    }
    return relaxation;
}

}  // namespace rdprune
