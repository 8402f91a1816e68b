#include "problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace rdprune {

namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string layerName(std::size_t layer) { return "layer " + std::to_string(layer); }

void checkShapes(const Instance& instance) {
    const std::size_t options = instance.distortions.size();
    if (instance.dimensions == 0) refuse("costs must have at least one column");
    if (instance.costs.size() != options * instance.dimensions)
        refuse("costs must have one row per distortion");
    if (instance.allowed.size() != options) refuse("allowed must have one entry per distortion");
    if (instance.offsets.size() < 2) refuse("offsets must name at least one layer");
    if (instance.groups.size() + 1 != instance.offsets.size())
        refuse("groups must have one entry per layer");
    if (instance.offsets.front() != 0 || instance.offsets.back() != static_cast<Index>(options))
        refuse("offsets must run from 0 to the number of options");
    for (std::size_t layer = 0; layer < instance.groups.size(); ++layer)
        if (instance.offsets[layer + 1] <= instance.offsets[layer])
            refuse(layerName(layer) + " must have at least one option");
}

void checkNumbers(const Instance& instance) {
    const std::size_t dimensions = instance.dimensions;
    std::vector<Cost> total(dimensions, 0);
    for (std::size_t layer = 0; layer < instance.groups.size(); ++layer) {
        std::vector<Cost> most(dimensions, 0);
        for (Index option = instance.offsets[layer]; option < instance.offsets[layer + 1];
             ++option) {
            const auto flat = static_cast<std::size_t>(option);
            if (!std::isfinite(instance.distortions[flat]))
                refuse("distortion of " + layerName(layer) + " must be finite");
            for (std::size_t i = 0; i < dimensions; ++i) {
                const Cost cost = instance.costs[flat * dimensions + i];
                if (cost < 0) refuse("cost of " + layerName(layer) + " must not be negative");
                most[i] = std::max(most[i], cost);
            }
        }
        for (std::size_t i = 0; i < dimensions; ++i) {
            if (most[i] > maxTotalCost - total[i])
                refuse("the largest costs of all layers must add up to at most 2^61");
            total[i] += most[i];
        }
    }
}

// Layers of each class, in order of the class's first layer.
std::vector<std::vector<std::size_t>> collectClasses(const Instance& instance,
                                                     std::vector<Index>& classOf) {
    const std::size_t layers = instance.groups.size();
    std::vector<std::size_t> order(layers);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return instance.groups[a] < instance.groups[b];
    });
    std::vector<std::vector<std::size_t>> classes;
    for (std::size_t i = 0; i < layers; ++i) {
        if (i == 0 || instance.groups[order[i]] != instance.groups[order[i - 1]])
            classes.emplace_back();
        classes.back().push_back(order[i]);
    }
    std::sort(classes.begin(), classes.end(),
              [](const auto& a, const auto& b) { return a.front() < b.front(); });
    classOf.resize(layers);
    for (std::size_t c = 0; c < classes.size(); ++c)
        for (const std::size_t layer : classes[c]) classOf[layer] = static_cast<Index>(c);
    return classes;
}

struct Option {
    std::size_t row;  // into the costs of the class
    Value value;
    Index index;
};

struct ClassOptions {
    std::size_t dimensions;
    std::vector<Cost> costs;
    std::vector<Option> options;

    [[nodiscard]] const Cost* cost(const Option& option) const {
        return costs.data() + option.row * dimensions;
    }
    // Order of preference among comparable options: costs, then distortion, then index.
    [[nodiscard]] bool before(const Option& a, const Option& b) const {
        const Cost* left = cost(a);
        const Cost* right = cost(b);
        for (std::size_t i = 0; i < dimensions; ++i)
            if (left[i] != right[i]) return left[i] < right[i];
        if (a.value != b.value) return a.value < b.value;
        return a.index < b.index;
    }
    [[nodiscard]] bool noWorse(const Option& a, const Option& b) const {
        if (a.value > b.value) return false;
        const Cost* left = cost(a);
        const Cost* right = cost(b);
        for (std::size_t i = 0; i < dimensions; ++i)
            if (left[i] > right[i]) return false;
        return true;
    }
};

ClassOptions mergeLayers(const Instance& instance, const std::vector<std::size_t>& layers,
                         const FixedPoint& scale) {
    const auto width = [&](std::size_t layer) {
        return instance.offsets[layer + 1] - instance.offsets[layer];
    };
    const Index options = width(layers.front());
    ClassOptions merged{instance.dimensions, {}, {}};
    for (const std::size_t layer : layers)
        if (width(layer) != options)
            refuse("tied layers must have the same number of options: " +
                   layerName(layers.front()) + " has " + std::to_string(options) + ", " +
                   layerName(layer) + " has " + std::to_string(width(layer)));
    merged.costs.reserve(static_cast<std::size_t>(options) * instance.dimensions);
    merged.options.reserve(static_cast<std::size_t>(options));
    for (Index index = 0; index < options; ++index) {
        const std::size_t row = merged.costs.size() / instance.dimensions;
        merged.costs.resize(merged.costs.size() + instance.dimensions, 0);
        Value value = 0;
        bool allowed = true;
        for (const std::size_t layer : layers) {
            const auto flat = static_cast<std::size_t>(instance.offsets[layer] + index);
            allowed = allowed && instance.allowed[flat] != 0;
            value += scale.fromDistortion(instance.distortions[flat]);
            for (std::size_t i = 0; i < instance.dimensions; ++i)
                merged.costs[row * instance.dimensions + i] +=
                    instance.costs[flat * instance.dimensions + i];
        }
        if (allowed) merged.options.push_back({row, value, index});
    }
    if (merged.options.empty())
        refuse(layerName(layers.front()) + " has no option left that is allowed");
    return merged;
}

void removeDominated(ClassOptions& merged) {
    const auto before = [&](const Option& a, const Option& b) { return merged.before(a, b); };
    auto& options = merged.options;
    // Tables run from dense to sparse or back: sorted already, or in reverse.
    if (!std::is_sorted(options.begin(), options.end(), before)) {
        std::reverse(options.begin(), options.end());
        if (!std::is_sorted(options.begin(), options.end(), before))
            std::sort(options.begin(), options.end(), before);
    }
    std::size_t kept = 0;
    for (const Option& option : options) {
        bool dominated = false;
        if (merged.dimensions == 1)
            dominated = kept > 0 && options[kept - 1].value <= option.value;
        else
            for (std::size_t other = kept; other-- > 0 && !dominated;)
                dominated = merged.noWorse(options[other], option);
        if (!dominated) options[kept++] = option;
    }
    options.resize(kept);
}

}  // namespace

Cost Problem::leastCost(std::size_t dimension) const {
    Cost total = 0;
    for (std::size_t c = 0; c < size(); ++c) {
        Cost least = costs[offsets[c] * dimensions + dimension];
        for (std::size_t option = offsets[c]; option < offsets[c + 1]; ++option)
            least = std::min(least, costs[option * dimensions + dimension]);
        total += least;
    }
    return total;
}

std::vector<Index> Problem::layerChoice(const std::vector<std::size_t>& option) const {
    std::vector<Index> choice(classOf.size());
    for (std::size_t layer = 0; layer < choice.size(); ++layer)
        choice[layer] = options[option[static_cast<std::size_t>(classOf[layer])]];
    return choice;
}

Value Problem::totalValue(const std::vector<std::size_t>& option) const {
    Value total = 0;
    for (const std::size_t chosen : option) total += values[chosen];
    return total;
}

Problem makeProblem(const Instance& instance) {
    checkShapes(instance);
    checkNumbers(instance);
    Problem problem;
    problem.dimensions = instance.dimensions;
    problem.scale = chooseFixedPoint(instance.distortions, instance.groups.size());
    const auto classes = collectClasses(instance, problem.classOf);
    problem.offsets.reserve(classes.size() + 1);
    problem.offsets.push_back(0);
    problem.values.reserve(instance.distortions.size());
    problem.options.reserve(instance.distortions.size());
    problem.costs.reserve(instance.costs.size());
    for (const auto& layers : classes) {
        ClassOptions merged = mergeLayers(instance, layers, problem.scale);
        removeDominated(merged);
        for (const Option& option : merged.options) {
            const Cost* cost = merged.cost(option);
            problem.costs.insert(problem.costs.end(), cost, cost + problem.dimensions);
            problem.values.push_back(option.value);
            problem.options.push_back(option.index);
        }
        problem.offsets.push_back(problem.values.size());
    }
    return problem;
}

}  // namespace rdprune
