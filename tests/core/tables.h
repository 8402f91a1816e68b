// What the C++ tests share: checks, tables that own their arrays, and brute force to compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "solver.h"

namespace rdprune::test {

inline int failures = 0;
inline std::string context;  // what is being checked, for the message

inline void check(bool holds, const char* expression, int line) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "line %d: %s: %s\n", line, context.c_str(), expression);
}

#define CHECK(expression) check(static_cast<bool>(expression), #expression, __LINE__)

template <typename Error, typename Function>
bool throws(Function&& function) {
    try {
        function();
    } catch (const Error&) {
        return true;
    } catch (...) {
        return false;
    }
    return false;
}

// Same numbers on every machine, which the standard's distributions do not promise.
class Random {
public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    std::int64_t integer(std::int64_t least, std::int64_t most) {
        const auto span = static_cast<std::uint64_t>(most - least) + 1;
        return least + static_cast<std::int64_t>(engine_() % span);
    }
    double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

private:
    std::mt19937_64 engine_;
};

// An instance that owns its arrays.
struct Table {
    std::size_t dimensions = 1;
    std::vector<Cost> costs;
    std::vector<Distortion> distortions;
    std::vector<Index> offsets{0};
    std::vector<std::uint8_t> allowed;
    std::vector<Index> groups;
    std::vector<Cost> budgets;

    void addLayer(const std::vector<Cost>& layerCosts, const std::vector<Distortion>& distortion) {
        groups.push_back(static_cast<Index>(groups.size()));
        costs.insert(costs.end(), layerCosts.begin(), layerCosts.end());
        distortions.insert(distortions.end(), distortion.begin(), distortion.end());
        allowed.resize(distortions.size(), 1);
        offsets.push_back(static_cast<Index>(distortions.size()));
    }
    [[nodiscard]] std::size_t layers() const { return groups.size(); }
    [[nodiscard]] std::size_t flat(std::size_t layer, Index option) const {
        return static_cast<std::size_t>(offsets[layer] + option);
    }
    [[nodiscard]] Instance instance() const {
        return {costs, distortions, offsets, allowed, groups, dimensions};
    }
    [[nodiscard]] Solution solve(const Limits& limits = {}) const {
        return rdprune::solve(instance(), budgets, limits).front();
    }
};

// What allocations are ranked by: least distortion, then least costs, then the smallest choice.
using Rank = std::tuple<Value, std::vector<Cost>, std::vector<Index>>;

// The rank of a choice, or nothing if it is not allowed, breaks a tie or exceeds a budget.
inline std::optional<Rank> rank(const Table& table, const FixedPoint& scale,
                                const std::vector<Index>& choice) {
    Value value = 0;
    std::vector<Cost> total(table.dimensions, 0);
    for (std::size_t layer = 0; layer < choice.size(); ++layer) {
        const std::size_t flat = table.flat(layer, choice[layer]);
        if (table.allowed[flat] == 0) return std::nullopt;
        for (std::size_t other = 0; other < layer; ++other)
            if (table.groups[other] == table.groups[layer] && choice[other] != choice[layer])
                return std::nullopt;
        value += scale.fromDistortion(table.distortions[flat]);
        for (std::size_t d = 0; d < table.dimensions; ++d)
            total[d] += table.costs[flat * table.dimensions + d];
    }
    for (std::size_t d = 0; d < table.dimensions; ++d)
        if (total[d] > table.budgets[d]) return std::nullopt;
    return Rank{value, total, choice};
}

inline FixedPoint scaleOf(const Table& table) {
    return chooseFixedPoint(table.distortions, table.layers());
}

// The ranks of all choices within the budgets, the best first.
inline std::vector<Rank> rankAll(const Table& table) {
    const FixedPoint scale = scaleOf(table);
    std::vector<Rank> ranks;
    std::vector<Index> choice(table.layers(), 0);
    for (;;) {
        if (auto found = rank(table, scale, choice)) ranks.push_back(std::move(*found));
        std::size_t layer = 0;
        while (layer < choice.size() &&
               ++choice[layer] == table.offsets[layer + 1] - table.offsets[layer])
            choice[layer++] = 0;
        if (layer == choice.size()) break;
    }
    std::sort(ranks.begin(), ranks.end());
    return ranks;
}

inline std::optional<Rank> bruteForce(const Table& table) {
    const std::vector<Rank> ranks = rankAll(table);
    return ranks.empty() ? std::nullopt : std::optional(ranks.front());
}

inline double randomDistortion(Random& random, std::int64_t kind, Cost cost) {
    switch (kind) {
        case 0:  // many ties
            return static_cast<double>(random.integer(-2, 2));
        case 1:  // decimal fractions, whose float sums depend on the order
            return static_cast<double>(random.integer(-9, 30)) / 10;
        case 2:  // more orders of magnitude than a double has digits
            return (random.uniform() - 0.5) *
                   std::pow(10.0, static_cast<double>(random.integer(-9, 9)));
        case 3:  // proportional to the weights removed: a subset-sum in disguise
            return -static_cast<double>(cost);
        default:
            return random.uniform();
    }
}

// Small enough for brute force; some layers tied, some options forbidden, about a third infeasible.
inline Table smallTable(Random& random, std::size_t dimensions) {
    constexpr Cost magnitudes[] = {3, 10, 1000, 1000000000, maxTotalCost / 8};
    Table table;
    table.dimensions = dimensions;
    const auto layers = static_cast<std::size_t>(random.integer(1, 5));
    const std::int64_t kind = random.integer(0, 4);
    const Cost most = magnitudes[random.integer(0, 4)];
    const bool tied = random.integer(0, 3) == 0;
    const bool forbidden = random.integer(0, 3) == 0;
    const std::int64_t width = random.integer(2, 4);
    for (std::size_t layer = 0; layer < layers; ++layer) {
        const auto options = static_cast<std::size_t>(tied ? width : random.integer(1, 5));
        std::vector<Cost> costs(options * dimensions);
        for (Cost& cost : costs) cost = random.integer(0, most);
        std::vector<Distortion> distortions;
        for (std::size_t k = 0; k < options; ++k)
            distortions.push_back(randomDistortion(random, kind, costs[k * dimensions]));
        table.addLayer(costs, distortions);
        if (tied) table.groups.back() = random.integer(0, 2);
        if (forbidden)  // the last option stays, so that no class runs out of options
            for (std::size_t k = 0; k + 1 < options; ++k)
                table.allowed[table.flat(layer, static_cast<Index>(k))] = random.integer(0, 2) > 0;
    }
    for (std::size_t d = 0; d < dimensions; ++d) {
        Cost least = 0;
        Cost dense = 0;
        for (std::size_t layer = 0; layer < layers; ++layer) {
            Cost low = most;
            Cost high = 0;
            for (Index k = table.offsets[layer]; k < table.offsets[layer + 1]; ++k) {
                const Cost cost = table.costs[static_cast<std::size_t>(k) * dimensions + d];
                low = std::min(low, cost);
                high = std::max(high, cost);
            }
            least += low;
            dense += high;
        }
        const bool reach = random.uniform() < std::pow(0.75, 1.0 / static_cast<double>(dimensions));
        table.budgets.push_back(reach ? random.integer(least, dense) : random.integer(0, least));
    }
    return table;
}

}  // namespace rdprune::test
