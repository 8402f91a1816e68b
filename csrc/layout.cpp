#include "layout.h"

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

void checkCosts(const Instance& instance) {
    const std::size_t dimensions = instance.dimensions;
    std::vector<Cost> total(dimensions, 0);
    for (std::size_t layer = 0; layer < instance.groups.size(); ++layer) {
        std::vector<Cost> most(dimensions, 0);
        for (Index option = instance.offsets[layer]; option < instance.offsets[layer + 1];
             ++option) {
            const auto flat = static_cast<std::size_t>(option);
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

void checkFinite(std::span<const Distortion> distortions, std::span<const Index> offsets) {
    for (std::size_t layer = 0; layer + 1 < offsets.size(); ++layer)
        for (Index option = offsets[layer]; option < offsets[layer + 1]; ++option)
            if (!std::isfinite(distortions[static_cast<std::size_t>(option)]))
                refuse("distortion of " + layerName(layer) + " must be finite");
}

// Puts rows in order by cost; equal ones stay in order. Tables run from dense to sparse or back:
// sorted already, or in reverse.
template <typename Less>
void sortRows(std::vector<std::size_t>& rows, Less&& less) {
    if (std::is_sorted(rows.begin(), rows.end(), less)) return;
    std::vector<std::size_t> reversed(rows.rbegin(), rows.rend());
    const auto rises = [&](std::size_t a, std::size_t b) { return !less(a, b); };
    if (std::adjacent_find(reversed.begin(), reversed.end(), rises) == reversed.end())
        rows = std::move(reversed);
    else
        std::stable_sort(rows.begin(), rows.end(), less);
}

}  // namespace

Layout::Layout(const Instance& instance)
    : dimensions_(instance.dimensions),
      layerOffsets_(instance.offsets.begin(), instance.offsets.end()) {
    checkShapes(instance);
    checkCosts(instance);
    classes_ = collectClasses(instance, classOf_);
    offsets_.reserve(classes_.size() + 1);
    options_.reserve(instance.allowed.size());
    costs_.reserve(instance.costs.size());
    for (const auto& layers : classes_) append(instance, layers);
}

void Layout::append(const Instance& instance, const std::vector<std::size_t>& layers) {
    const auto width = [&](std::size_t layer) {
        return instance.offsets[layer + 1] - instance.offsets[layer];
    };
    const Index options = width(layers.front());
    for (const std::size_t layer : layers)
        if (width(layer) != options)
            refuse("tied layers must have the same number of options: " +
                   layerName(layers.front()) + " has " + std::to_string(options) + ", " +
                   layerName(layer) + " has " + std::to_string(width(layer)));
    std::vector<std::size_t> rows;
    std::vector<Cost> sums(static_cast<std::size_t>(options) * dimensions_, 0);
    rows.reserve(static_cast<std::size_t>(options));
    for (Index index = 0; index < options; ++index) {
        const auto row = static_cast<std::size_t>(index);
        bool allowed = true;
        for (const std::size_t layer : layers) {
            const auto flat = static_cast<std::size_t>(instance.offsets[layer] + index);
            allowed = allowed && instance.allowed[flat] != 0;
            for (std::size_t i = 0; i < dimensions_; ++i)
                sums[row * dimensions_ + i] += instance.costs[flat * dimensions_ + i];
        }
        if (allowed) rows.push_back(row);
    }
    if (rows.empty()) refuse(layerName(layers.front()) + " has no option left that is allowed");
    const auto costsOf = [&](std::size_t row) {
        return std::span(sums).subspan(row * dimensions_, dimensions_);
    };
    sortRows(rows, [&](std::size_t a, std::size_t b) {
        return std::ranges::lexicographical_compare(costsOf(a), costsOf(b));
    });
    for (const std::size_t row : rows) {
        options_.push_back(static_cast<Index>(row));
        costs_.insert(costs_.end(), costsOf(row).begin(), costsOf(row).end());
    }
    offsets_.push_back(options_.size());
}

// Appends the rows of a class that no other one dominates. Of rows with equal costs the one of least
// value, first in order, speaks for all.
void Layout::appendPreferred(Problem& problem, std::span<const Value> values, std::size_t first,
                             std::size_t last) const {
    const std::size_t begin = problem.values.size();
    const auto costs = [&](std::size_t row) { return &costs_[row * dimensions_]; };
    const auto dominated = [&](std::size_t row) {
        const Value value = values[row - first];
        if (dimensions_ == 1)
            return problem.values.size() > begin && problem.values.back() <= value;
        for (std::size_t other = problem.values.size(); other-- > begin;) {
            const Cost* left = &problem.costs[other * dimensions_];
            std::size_t i = 0;
            while (i < dimensions_ && left[i] <= costs(row)[i]) ++i;
            if (i == dimensions_ && problem.values[other] <= value) return true;
        }
        return false;
    };
    for (std::size_t row = first; row < last;) {
        std::size_t best = row;
        std::size_t next = row + 1;
        for (; next < last && std::equal(costs(row), costs(row) + dimensions_, costs(next)); ++next)
            if (values[next - first] < values[best - first]) best = next;
        row = next;
        if (dominated(best)) continue;
        problem.costs.insert(problem.costs.end(), costs(best), costs(best) + dimensions_);
        problem.values.push_back(values[best - first]);
        problem.options.push_back(options_[best]);
    }
}

Problem Layout::problem(std::span<const Distortion> distortions, bool withDominated) const {
    if (static_cast<Index>(distortions.size()) != layerOffsets_.back())
        refuse("distortions must have one entry per option");
    checkFinite(distortions, layerOffsets_);
    Problem problem;
    problem.dimensions = dimensions_;
    problem.scale = chooseFixedPoint(distortions, classOf_.size());
    problem.classOf = classOf_;
    problem.offsets.reserve(offsets_.size());
    problem.offsets.push_back(0);
    problem.values.reserve(options_.size());
    problem.options.reserve(options_.size());
    problem.costs.reserve(costs_.size());
    std::vector<Value> values;
    for (std::size_t cls = 0; cls < classes_.size(); ++cls) {
        const std::size_t first = offsets_[cls];
        const std::size_t last = offsets_[cls + 1];
        values.assign(last - first, 0);
        for (const std::size_t layer : classes_[cls])
            for (std::size_t row = first; row < last; ++row)
                values[row - first] += problem.scale.fromDistortion(
                    distortions[static_cast<std::size_t>(layerOffsets_[layer] + options_[row])]);
        if (withDominated)
            problem.values.insert(problem.values.end(), values.begin(), values.end());
        else
            appendPreferred(problem, values, first, last);
        problem.offsets.push_back(problem.values.size());
    }
    if (withDominated) {
        problem.costs = costs_;
        problem.options = options_;
    }
    return problem;
}

}  // namespace rdprune
