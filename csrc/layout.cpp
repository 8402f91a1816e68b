#include "layout.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

#include "stairs.h"

namespace rdprune {

namespace {

constexpr std::size_t fewRows = 256;    // a class; each is compared with all that are kept
constexpr std::size_t stairSteps = 64;  // what a look at the stairs is worth, in comparisons

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
        const auto first = static_cast<std::size_t>(instance.offsets[layer]);
        const auto last = static_cast<std::size_t>(instance.offsets[layer + 1]);
        for (std::size_t i = 0; i < dimensions; ++i) {
            Cost least = 0;
            Cost most = 0;
            for (std::size_t option = first; option < last; ++option) {
                const Cost cost = instance.costs[option * dimensions + i];
                least = std::min(least, cost);
                most = std::max(most, cost);
            }
            if (least < 0) refuse("cost of " + layerName(layer) + " must not be negative");
            if (most > maxTotalCost - total[i])
                refuse("the largest costs of all layers must add up to at most 2^61");
            total[i] += most;
        }
    }
}

[[noreturn]] void nameInfinite(std::span<const Distortion> distortions,
                               std::span<const Index> offsets) {
    const auto bad = std::find_if_not(distortions.begin(), distortions.end(),
                                      [](Distortion d) { return std::isfinite(d); });
    const auto layer = std::upper_bound(offsets.begin(), offsets.end(),
                                        static_cast<Index>(bad - distortions.begin()));
    refuse("distortion of " + layerName(static_cast<std::size_t>(layer - offsets.begin()) - 1) +
           " must be finite");
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

Layout::Layout(const Instance& instance, Watch& watch)
    : dimensions_(instance.dimensions),
      layerOffsets_(instance.offsets.begin(), instance.offsets.end()) {
    checkShapes(instance);
    checkCosts(instance);
    collectClasses(instance);
    offsets_.reserve(classLayers_.size());
    options_.reserve(instance.allowed.size());
    costs_.reserve(instance.costs.size());
    Pace pace(watch);
    for (std::size_t cls = 0; cls + 1 < classLayers_.size(); ++cls) {
        const std::span<const std::size_t> layers = layersOf(cls);
        const bool plain = dimensions_ == 1 && layers.size() == 1;
        if (!plain || !appendInOrder(instance, layers.front())) append(instance, layers, pace);
        pace.expiredAfter(options_.size() - offsets_.back());
        offsets_.push_back(options_.size());
    }
}

std::span<const std::size_t> Layout::layersOf(std::size_t cls) const {
    return std::span(layers_).subspan(classLayers_[cls], classLayers_[cls + 1] - classLayers_[cls]);
}

// Classes in order of their first layers.
void Layout::collectClasses(const Instance& instance) {
    const std::span<const Index> groups = instance.groups;
    const std::size_t layers = groups.size();
    classOf_.resize(layers);
    layers_.resize(layers);
    std::iota(layers_.begin(), layers_.end(), std::size_t{0});
    if (std::adjacent_find(groups.begin(), groups.end(), std::greater_equal<>()) == groups.end()) {
        std::iota(classOf_.begin(), classOf_.end(), Index{0});
        classLayers_ = layers_;
        classLayers_.push_back(layers);
        return;
    }
    std::stable_sort(layers_.begin(), layers_.end(),
                     [&](std::size_t a, std::size_t b) { return groups[a] < groups[b]; });
    std::vector<std::size_t> first(layers);  // of the layer's class
    for (std::size_t i = 0; i < layers; ++i) {
        const bool more = i > 0 && groups[layers_[i]] == groups[layers_[i - 1]];
        first[layers_[i]] = more ? first[layers_[i - 1]] : layers_[i];
    }
    std::stable_sort(layers_.begin(), layers_.end(),
                     [&](std::size_t a, std::size_t b) { return first[a] < first[b]; });
    for (std::size_t i = 0; i < layers; ++i) {
        if (i == 0 || first[layers_[i]] != first[layers_[i - 1]]) classLayers_.push_back(i);
        classOf_[layers_[i]] = static_cast<Index>(classLayers_.size()) - 1;
    }
    classLayers_.push_back(layers);
}

// A layer that is a class of its own, with one cost and every option allowed, if its options are in
// order of cost or exactly the other way round, as they are in tables from dense to sparse.
bool Layout::appendInOrder(const Instance& instance, std::size_t layer) {
    const auto first = static_cast<std::size_t>(instance.offsets[layer]);
    const auto count = static_cast<std::size_t>(instance.offsets[layer + 1]) - first;
    const auto costs = instance.costs.subspan(first, count);
    std::size_t rises = 0;
    std::size_t falls = 0;
    std::size_t allowed = instance.allowed[first] != 0 ? 1 : 0;
    for (std::size_t i = 1; i < count; ++i) {
        rises += costs[i] >= costs[i - 1] ? 1 : 0;
        falls += costs[i] < costs[i - 1] ? 1 : 0;
        allowed += instance.allowed[first + i] != 0 ? 1 : 0;
    }
    const bool rising = rises + 1 == count;
    if (allowed < count || (!rising && falls + 1 < count)) return false;
    const std::size_t begin = options_.size();
    options_.resize(begin + count);
    costs_.resize(begin + count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t index = rising ? i : count - 1 - i;
        options_[begin + i] = static_cast<Index>(index);
        costs_[begin + i] = costs[index];
    }
    return true;
}

void Layout::append(const Instance& instance, std::span<const std::size_t> layers, Pace& pace) {
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
        pace.expiredAfter(1);
        return std::ranges::lexicographical_compare(costsOf(a), costsOf(b));
    });
    for (const std::size_t row : rows) {
        options_.push_back(static_cast<Index>(row));
        costs_.insert(costs_.end(), costsOf(row).begin(), costsOf(row).end());
    }
}

// The same for a class of one layer with one cost, written from `end` on; returns the new end.
// Without branches: whether a noisy curve's next option is dominated is anybody's guess.
std::size_t Layout::appendStairs(Problem& problem, std::size_t cls, std::size_t end,
                                 std::span<const Distortion> distortions) const {
    const auto layer = static_cast<std::size_t>(layerOffsets_[layersOf(cls).front()]);
    const FixedPoint scale = problem.scale;
    Cost* const costs = problem.costs.data();
    Value* const values = problem.values.data();
    Index* const options = problem.options.data();
    Cost lastCost = -1;
    Value lastValue = ~(static_cast<Value>(1) << 127);  // the largest
    for (std::size_t row = offsets_[cls]; row < offsets_[cls + 1]; ++row) {
        const Cost cost = costs_[row];
        const Value value =
            scale.fromDistortion(distortions[layer + static_cast<std::size_t>(options_[row])]);
        const bool keep = value < lastValue;
        end -= (keep && cost == lastCost) ? 1 : 0;
        costs[end] = cost;
        values[end] = value;
        options[end] = options_[row];
        end += keep ? 1 : 0;
        lastCost = keep ? cost : lastCost;
        lastValue = keep ? value : lastValue;
    }
    return end;
}

// Appends the rows of a class that no other one dominates. Of rows with equal costs the one of least
// value, first in order, speaks for all.
void Layout::appendPreferred(Problem& problem, std::span<const Value> values, std::size_t first,
                             std::size_t last, Pace& pace) const {
    const std::size_t begin = problem.values.size();
    const bool onStairs = dimensions_ == 2 && last - first > fewRows;
    Stairs stairs;
    const auto costs = [&](std::size_t row) { return &costs_[row * dimensions_]; };
    const auto dominated = [&](std::size_t row) {
        const Value value = values[row - first];
        if (dimensions_ == 1)
            return problem.values.size() > begin && problem.values.back() <= value;
        if (pace.expiredAfter(onStairs ? stairSteps : problem.values.size() - begin)) return false;
        if (onStairs) return stairs.dominated(costs(row)[1], value);
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

Problem Layout::problem(std::span<const Distortion> distortions, Watch& watch,
                        bool withDominated) const {
    if (static_cast<Index>(distortions.size()) != layerOffsets_.back())
        refuse("distortions must have one entry per option");
    if (!allFinite(distortions)) nameInfinite(distortions, layerOffsets_);
    Problem problem;
    problem.dimensions = dimensions_;
    problem.scale = chooseFixedPoint(distortions, classOf_.size());
    problem.classOf = classOf_;
    problem.offsets.reserve(offsets_.size());
    problem.offsets.push_back(0);
    if (dimensions_ == 1 && !withDominated && layers_.size() + 1 == classLayers_.size()) {
        problem.values.resize(options_.size());
        problem.options.resize(options_.size());
        problem.costs.resize(options_.size());
        std::size_t end = 0;
        for (std::size_t cls = 0; cls + 1 < classLayers_.size(); ++cls) {
            end = appendStairs(problem, cls, end, distortions);
            problem.offsets.push_back(end);
        }
        problem.values.resize(end);
        problem.options.resize(end);
        problem.costs.resize(end);
        return problem;
    }
    problem.values.reserve(options_.size());
    problem.options.reserve(options_.size());
    problem.costs.reserve(costs_.size());
    std::vector<Value> values;
    Pace pace(watch);
    for (std::size_t cls = 0; cls + 1 < classLayers_.size(); ++cls) {
        const std::size_t first = offsets_[cls];
        const std::size_t last = offsets_[cls + 1];
        values.assign(last - first, 0);
        pace.expiredAfter(last - first);
        for (const std::size_t layer : layersOf(cls))
            for (std::size_t row = first; row < last; ++row)
                values[row - first] += problem.scale.fromDistortion(
                    distortions[static_cast<std::size_t>(layerOffsets_[layer] + options_[row])]);
        if (withDominated)
            problem.values.insert(problem.values.end(), values.begin(), values.end());
        else
            appendPreferred(problem, values, first, last, pace);
        problem.offsets.push_back(problem.values.size());
    }
    if (withDominated) {
        problem.costs = costs_;
        problem.options = options_;
    }
    return problem;
}

}  // namespace rdprune
