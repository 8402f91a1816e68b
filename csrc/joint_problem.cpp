#include "joint_problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace rdprune {

namespace {

constexpr std::size_t lanes = 8;

void checkResponses(const JointInstance& instance) {
    const std::size_t options = instance.layers.distortions.size();
    if (instance.width == 0) throw std::invalid_argument("responses must have at least one column");
    if (instance.responses.size() != options * instance.width)
        throw std::invalid_argument("responses must have one row per distortion");
    if (instance.offset.size() != instance.width)
        throw std::invalid_argument("offset must have one entry per column of responses");
    for (const double value : instance.offset)
        if (!std::isfinite(value)) throw std::invalid_argument("offset must be finite");
    for (std::size_t layer = 0; layer < instance.layers.groups.size(); ++layer) {
        const auto first = static_cast<std::size_t>(instance.layers.offsets[layer]);
        const auto last = static_cast<std::size_t>(instance.layers.offsets[layer + 1]);
        for (std::size_t i = first * instance.width; i < last * instance.width; ++i)
            if (!std::isfinite(instance.responses[i]))
                throw std::invalid_argument("responses of layer " + std::to_string(layer) +
                                            " must be finite");
    }
}

}  // namespace

std::vector<Index> JointProblem::layerChoice(const std::vector<std::size_t>& option) const {
    std::vector<Index> choice(classOf.size());
    for (std::size_t layer = 0; layer < choice.size(); ++layer)
        choice[layer] = options[option[classOf[layer]]];
    return choice;
}

double JointProblem::rounding(double length, double other) const {
    const auto terms = static_cast<double>(width / lanes + 8 + 2 * classes());
    return terms * 0x1p-52 * length * other;
}

JointProblem makeJointProblem(const JointInstance& instance, Watch& watch) {
    const Problem reduced = makeProblem(instance.layers, watch);  // checks and merges
    checkResponses(instance);
    const Instance& layers = instance.layers;
    JointProblem problem;
    problem.dimensions = layers.dimensions;
    problem.samples = instance.width;
    problem.width = (instance.width + lanes - 1) / lanes * lanes;
    problem.offset.assign(instance.offset.begin(), instance.offset.end());
    problem.offset.resize(problem.width, 0.0);
    std::vector<std::vector<std::size_t>> members(reduced.size());
    for (std::size_t layer = 0; layer < layers.groups.size(); ++layer) {
        problem.classOf.push_back(static_cast<std::size_t>(reduced.classOf[layer]));
        members[problem.classOf.back()].push_back(layer);
    }
    problem.offsets.push_back(0);
    problem.size = std::sqrt(dot(problem.offset.data(), problem.offset.data(), problem.width));
    for (std::size_t cls = 0; cls < members.size(); ++cls) {
        const std::size_t first = members[cls].front();
        double longest = 0.0;
        for (Index index = 0; index < layers.offsets[first + 1] - layers.offsets[first]; ++index) {
            const std::size_t row = problem.additive.size();
            bool allowed = true;
            for (const std::size_t layer : members[cls])
                allowed =
                    allowed &&
                    layers.allowed[static_cast<std::size_t>(layers.offsets[layer] + index)] != 0;
            if (!allowed) continue;
            problem.costs.resize((row + 1) * problem.dimensions, 0);
            problem.responses.resize((row + 1) * problem.width, 0.0);
            problem.additive.push_back(0.0);
            for (const std::size_t layer : members[cls]) {
                const auto flat = static_cast<std::size_t>(layers.offsets[layer] + index);
                problem.additive[row] += layers.distortions[flat];
                for (std::size_t d = 0; d < problem.dimensions; ++d)
                    problem.costs[row * problem.dimensions + d] +=
                        layers.costs[flat * problem.dimensions + d];
                for (std::size_t i = 0; i < instance.width; ++i)
                    problem.responses[row * problem.width + i] +=
                        static_cast<double>(instance.responses[flat * instance.width + i]);
            }
            problem.options.push_back(index);
            problem.classFor.push_back(cls);
            const double* response = problem.response(row);
            problem.squares.push_back(dot(response, response, problem.width));
            problem.own.push_back(0.0);
            longest = std::max(longest, problem.squares.back());
        }
        problem.offsets.push_back(problem.options.size());
        problem.size += std::sqrt(longest);
    }
    if (!std::isfinite(problem.size * problem.size))
        throw std::invalid_argument("responses and offset must have squares that can be added up");
    return problem;
}

JointProblem takeOptions(const JointProblem& problem, const std::vector<std::size_t>& options) {
    JointProblem part;
    part.dimensions = problem.dimensions;
    part.samples = problem.samples;
    part.width = problem.width;
    part.offset = problem.offset;
    part.classOf = problem.classOf;
    part.size = problem.size;
    part.offsets.push_back(0);
    const auto copy = [](auto& to, const auto& from, std::size_t row, std::size_t width) {
        const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row * width);
        to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
    };
    part.responses.reserve(options.size() * part.width);
    for (const std::size_t option : options) {
        if (problem.classFor[option] == part.offsets.size())
            part.offsets.push_back(part.options.size());
        copy(part.costs, problem.costs, option, problem.dimensions);
        copy(part.responses, problem.responses, option, problem.width);
        part.additive.push_back(problem.additive[option]);
        part.squares.push_back(problem.squares[option]);
        part.own.push_back(problem.own[option]);
        part.classFor.push_back(problem.classFor[option]);
        part.options.push_back(problem.options[option]);
    }
    part.offsets.push_back(part.options.size());
    return part;
}

JointPoint makePoint(const JointProblem& problem, std::vector<std::size_t> option) {
    JointPoint point{std::move(option), problem.offset, 0.0};
    for (const std::size_t chosen : point.option) {
        const double* response = problem.response(chosen);
        for (std::size_t i = 0; i < problem.width; ++i) point.residual[i] += response[i];
    }
    point.square = dot(point.residual.data(), point.residual.data(), problem.width);
    for (const std::size_t chosen : point.option) point.square += problem.own[chosen];
    return point;
}

std::vector<Cost> totalCosts(const JointProblem& problem, const std::vector<std::size_t>& option) {
    std::vector<Cost> total(problem.dimensions, 0);
    for (const std::size_t chosen : option)
        for (std::size_t d = 0; d < problem.dimensions; ++d)
            total[d] += problem.costs[chosen * problem.dimensions + d];
    return total;
}

bool isBetter(const JointProblem& problem, const JointPoint& a, const JointPoint& b) {
    if (a.square != b.square) return a.square < b.square;
    const std::vector<Cost> left = totalCosts(problem, a.option);
    const std::vector<Cost> right = totalCosts(problem, b.option);
    if (left != right) return left < right;
    return problem.layerChoice(a.option) < problem.layerChoice(b.option);
}

}  // namespace rdprune
