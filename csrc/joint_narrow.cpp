#include "joint_narrow.h"

#include <algorithm>
#include <cmath>

namespace rdprune {

namespace {

constexpr std::size_t sampled = 512;   // responses that the basis is made of
constexpr double leastLength = 1e-10;  // of a new direction, as a share of the vector's

// Rows of numbers, one after the other.
struct Rows {
    std::size_t width;
    std::vector<double> values;

    [[nodiscard]] std::size_t count() const { return values.size() / width; }
    [[nodiscard]] double* row(std::size_t index) { return values.data() + index * width; }
};

// Some responses of every class, evenly spaced.
Rows sample(const JointProblem& problem) {
    Rows rows{problem.width, {}};
    const std::size_t perClass = std::max<std::size_t>(sampled / problem.classes(), 2);
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        const std::size_t begin = problem.offsets[cls];
        const std::size_t last = problem.offsets[cls + 1] - 1 - begin;
        const std::size_t steps = std::min(perClass - 1, last);
        for (std::size_t step = 0; step <= steps; ++step) {
            const double* from = problem.response(begin + (steps == 0 ? 0 : step * last / steps));
            rows.values.insert(rows.values.end(), from, from + problem.width);
        }
    }
    return rows;
}

// Sums of rows, each with weights of its own.
void addUp(Rows& rows, const std::vector<double>& weights, double* sum) {
    for (std::size_t i = 0; i < rows.count(); ++i) {
        const double* from = rows.row(i);
        for (std::size_t j = 0; j < rows.width; ++j) sum[j] += weights[i] * from[j];
    }
}

// Makes the rows orthonormal, from the first on; those that lie in the span of others become zero.
void orthonormalise(Rows& rows, Watch& watch) {
    for (std::size_t i = 0; i < rows.count() && !watch.expired(); ++i) {
        double* own = rows.row(i);
        const double before = std::sqrt(dot(own, own, rows.width));
        for (int twice = 0; twice < 2; ++twice)
            for (std::size_t other = 0; other < i; ++other) {
                const double* against = rows.row(other);
                const double share = dot(own, against, rows.width);
                for (std::size_t j = 0; j < rows.width; ++j) own[j] -= share * against[j];
            }
        const double length = std::sqrt(dot(own, own, rows.width));
        const double scale = length > leastLength * before ? 1.0 / length : 0.0;
        for (std::size_t j = 0; j < rows.width; ++j) own[j] *= scale;
    }
}

Rows makeBasis(const JointProblem& problem, std::size_t width, Random& random, Watch& watch) {
    Rows samples = sample(problem);
    Rows basis{problem.width, std::vector<double>(width * problem.width, 0.0)};
    std::copy(problem.offset.begin(), problem.offset.end(), basis.row(0));
    std::vector<double> weights(samples.count());
    for (std::size_t i = 1; i < width && !watch.expired(); ++i) {
        for (double& weight : weights) weight = 2.0 * random.unit() - 1.0;
        addUp(samples, weights, basis.row(i));
    }
    orthonormalise(basis, watch);
    for (std::size_t i = 1; i < width && !watch.expired(); ++i) {
        products(basis.row(i), samples.row(0), samples.count(), problem.width, weights.data());
        std::fill_n(basis.row(i), problem.width, 0.0);
        addUp(samples, weights, basis.row(i));
    }
    orthonormalise(basis, watch);
    return basis;
}

}  // namespace

std::optional<JointProblem> narrowed(const JointProblem& problem, std::size_t width, Random& random,
                                     Watch& watch) {
    Rows basis = makeBasis(problem, width, random, watch);
    JointProblem narrow;
    narrow.dimensions = problem.dimensions;
    narrow.samples = problem.samples;
    narrow.width = width;
    narrow.offsets = problem.offsets;
    narrow.costs = problem.costs;
    narrow.additive = problem.additive;
    narrow.squares = problem.squares;
    narrow.own.resize(problem.options.size());
    narrow.classFor = problem.classFor;
    narrow.options = problem.options;
    narrow.classOf = problem.classOf;
    narrow.size = problem.size;
    narrow.offset.assign(width, 0.0);
    products(problem.offset.data(), basis.row(0), width, problem.width, narrow.offset.data());
    narrow.responses.assign(problem.options.size() * width, 0.0);
    for (std::size_t i = 0; i < problem.options.size() && !watch.expired(); ++i) {
        double* inside = narrow.responses.data() + i * width;
        products(problem.response(i), basis.row(0), width, problem.width, inside);
        narrow.own[i] = std::max(problem.squares[i] - dot(inside, inside, width), 0.0);
    }
    if (watch.expired()) return std::nullopt;
    return narrow;
}

}  // namespace rdprune
