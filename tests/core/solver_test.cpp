// The solver against brute force, without Python, so that it can run under sanitizers.
#include "solver.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "fixed_point.h"
#include "tables.h"
#include "trace_back.h"

namespace {

using namespace rdprune;
using namespace rdprune::test;

// Choice, optimality and infeasibility equal the exhaustive search's.
void equalsBruteForce(std::size_t dimensions, int tables) {
    int infeasible = 0;
    for (int seed = 0; seed < tables; ++seed) {
        context = std::to_string(dimensions) + " costs, seed " + std::to_string(seed);
        Random random(static_cast<std::uint64_t>(seed));
        const Table table = smallTable(random, dimensions);
        const auto expected = bruteForce(table);
        if (!expected) {
            ++infeasible;
            CHECK(throws<InfeasibleBudget>([&] { (void)table.solve(); }));
            continue;
        }
        const Solution found = table.solve();
        CHECK(found.optimal);
        CHECK(found.choice == std::get<2>(*expected));
        CHECK(found.multipliers.size() == dimensions);
        for (const double multiplier : found.multipliers)
            CHECK(multiplier >= 0.0 && std::isfinite(multiplier));
    }
    context = std::to_string(infeasible) + " infeasible of " + std::to_string(tables) + " tables";
    CHECK(infeasible > tables / 10 && infeasible < tables * 2 / 3);
}

// Stopped at a limit, an allocation is still feasible and its bound below the optimum.
void limitsKeepTheBoundValid(std::size_t dimensions, int tables) {
    int stopped = 0;
    for (int seed = 0; seed < tables; ++seed) {
        Random random(static_cast<std::uint64_t>(seed));
        const Table table = smallTable(random, dimensions);
        const FixedPoint scale = scaleOf(table);
        const auto expected = bruteForce(table);
        if (!expected) continue;
        for (const std::size_t bytes : {0, 200, 1000}) {
            context = std::to_string(dimensions) + " costs, seed " + std::to_string(seed) + ", " +
                      std::to_string(bytes) + " bytes";
            Limits limits;
            limits.bytes = bytes;
            try {
                const Solution found = table.solve(limits);
                const auto reached = rank(table, scale, found.choice);
                CHECK(reached.has_value());
                if (!reached) continue;
                if (found.optimal) {
                    CHECK(std::get<0>(*reached) == std::get<0>(*expected));
                } else {
                    ++stopped;
                    CHECK(found.lowerBound <= scale.toDistortion(std::get<0>(*expected)));
                }
            } catch (const InfeasibleBudget&) {
                CHECK(!"feasible, but refused as infeasible");
            } catch (const std::runtime_error&) {
                ++stopped;
                CHECK(dimensions > 1);  // stopped before it found any allocation
            }
        }
    }
    context = std::to_string(stopped) + " stopped of " + std::to_string(tables) + " tables";
    CHECK(stopped > tables / 20);
}

// A search that takes long asks `poll` now and then, and what that throws comes through.
void pollInterrupts() {
    context = "poll";
    struct Interrupt {};
    Random random(1);
    Table table;
    for (int layer = 0; layer < 60; ++layer) {
        const Cost cost = random.integer(Cost{1} << 40, Cost{1} << 41);
        const double noise = 1.0 + 1e-9 * random.uniform();
        table.addLayer({cost, 0}, {0.0, static_cast<double>(cost) * noise});
    }
    table.budgets = {std::accumulate(table.costs.begin(), table.costs.end(), Cost{0}) / 2};
    Limits limits;
    limits.poll = [] { throw Interrupt{}; };
    CHECK(throws<Interrupt>([&] { (void)table.solve(limits); }));
    limits = {};
    limits.seconds = 0.0;
    const Solution found = table.solve(limits);
    CHECK(!found.optimal);
    CHECK(rank(table, scaleOf(table), found.choice).has_value());
}

// Several rows of budgets give what each gives alone.
void solvesSeveralBudgets() {
    context = "several budgets";
    for (const std::size_t dimensions : {1, 2}) {
        Table table;
        table.dimensions = dimensions;
        Random random(3);
        for (int layer = 0; layer < 6; ++layer) {
            std::vector<Cost> costs(8 * dimensions);
            std::vector<Distortion> distortions(8);
            for (Cost& cost : costs) cost = random.integer(0, 100);
            for (Distortion& distortion : distortions) distortion = random.uniform();
            table.addLayer(costs, distortions);
        }
        std::vector<Cost> rows;
        for (Cost budget = 300; budget <= 600; budget += 50)
            rows.insert(rows.end(), dimensions, budget);
        const auto together = solve(table.instance(), rows, {});
        CHECK(together.size() == rows.size() / dimensions);
        for (std::size_t row = 0; row < together.size(); ++row) {
            table.budgets.assign(dimensions, rows[row * dimensions]);
            CHECK(together[row].choice == table.solve().choice);
        }
        table.budgets.assign(dimensions, std::numeric_limits<Cost>::max());
        CHECK(table.solve().optimal);
    }
}

// Layers whose distortion falls by one with every unit of cost, so that nearly everything is a tie.
Table equalLayers(std::size_t layers, Index options, Cost budget) {
    std::vector<Cost> costs;
    std::vector<Distortion> distortions;
    for (Index k = 0; k < options; ++k) {
        costs.push_back(k);
        distortions.push_back(-static_cast<double>(k));
    }
    Table table;
    for (std::size_t layer = 0; layer < layers; ++layer) table.addLayer(costs, distortions);
    table.budgets = {budget};
    return table;
}

// Of the many equal allocations the lexicographically smallest is found.
void tiesGoToTheSmallestChoice(std::size_t layers, Index options) {
    context = std::to_string(layers) + " equal layers of " + std::to_string(options) + " options";
    const Index most = options - 1;
    const Index budget = most * static_cast<Index>(layers) / 2 + 1;
    const Table table = equalLayers(layers, options, budget);
    std::vector<Index> expected(layers, 0);
    Index left = budget;
    for (std::size_t layer = layers; layer-- > 0;) {
        expected[layer] = std::min(left, most);
        left -= expected[layer];
    }
    const Solution found = table.solve();
    CHECK(found.optimal);
    CHECK(found.choice == expected);
}

// With more ties than are looked at, the answer is still an optimum.
void optimalBeyondTheTiesLookedAt() {
    context = "60 equal layers of 101 options";
    const Table table = equalLayers(60, 101, 3001);
    const Solution found = table.solve();
    const auto reached = rank(table, scaleOf(table), found.choice);
    CHECK(found.optimal);
    CHECK(reached.has_value());
    if (reached) CHECK(std::get<1>(*reached).front() == 3001);
}

// Of two ways back from one state the lexicographically smaller is taken, in the table's order.
void traceBackPrefersTheTablesOrder() {
    context = "trace back";
    // Two stages, searched in the order class 1, class 0; options cost 0 or 1 and are worth 0 or -1.
    const std::vector<Cost> cost{0, 1};
    const std::vector<Value> value{0, -1};
    const std::vector<Index> index{0, 1};
    const std::vector<Cost> origin{0};
    const std::vector<Value> originValue{0};
    const std::vector<TraceStage> stages{
        {1, cost, value, index, origin, originValue},
        {0, cost, value, index, cost, value},
    };
    const std::vector<Cost> last{1};
    const Limits limits;
    Watch watch(limits);
    CHECK((traceBack(stages, last, -1, watch) == std::vector<std::size_t>{1, 0}));
    CHECK((traceBack(stages, std::vector<Cost>{2}, -2, watch) == std::vector<std::size_t>{1, 1}));
    CHECK(traceBack({}, last, -1, watch).empty());
}

// Whatever is wrong with an instance is refused as an invalid argument.
void refusesBadInput() {
    Table good;
    good.addLayer({3, 1}, {0.0, 1.0});
    good.addLayer({3, 1, 0}, {0.0, 1.0, 2.0});
    good.budgets = {4};
    context = "good table";
    CHECK(good.solve().optimal);
    const auto refused = [&](const char* what, auto&& spoil) {
        context = what;
        Table bad = good;
        spoil(bad);
        CHECK(throws<std::invalid_argument>([&] { (void)bad.solve(); }));
    };
    constexpr double infinity = std::numeric_limits<double>::infinity();
    refused("NaN", [](Table& t) { t.distortions[1] = std::nan(""); });
    refused("infinity", [](Table& t) { t.distortions[1] = -infinity; });
    refused("negative cost", [](Table& t) { t.costs[0] = -1; });
    refused("overflow", [](Table& t) { t.costs[0] = maxTotalCost; });
    refused("largest cost", [](Table& t) { t.costs[0] = std::numeric_limits<Cost>::max(); });
    refused("negative budget", [](Table& t) { t.budgets[0] = -1; });
    refused("no dimension", [](Table& t) { t.dimensions = 0; });
    refused("too few costs", [](Table& t) { t.costs.pop_back(); });
    refused("two columns", [](Table& t) { t.dimensions = 2; });
    refused("too few flags", [](Table& t) { t.allowed.pop_back(); });
    refused("no layer", [](Table& t) { t = Table{}; });
    refused("no offset", [](Table& t) { t.offsets.clear(); });
    refused("too few groups", [](Table& t) { t.groups.pop_back(); });
    refused("offsets from one", [](Table& t) { t.offsets[0] = 1; });
    refused("offsets too long", [](Table& t) { t.offsets[2] = 9; });
    refused("offsets falling", [](Table& t) { t.offsets[1] = 9; });
    refused("empty layer", [](Table& t) { t.offsets[1] = 5; });
    refused("nothing allowed", [](Table& t) { t.allowed[0] = t.allowed[1] = 0; });
    refused("unequal ties", [](Table& t) { t.groups[1] = 0; });
    context = "one budget for two costs";
    good.dimensions = 2;
    good.costs.resize(10, 1);
    CHECK(throws<std::invalid_argument>([&] { (void)good.solve(); }));
    context = "least cost of an infeasible budget";
    good.budgets = {3, 1};
    try {
        (void)good.solve();
        CHECK(!"must be infeasible");
    } catch (const InfeasibleBudget& error) {
        CHECK(error.least().size() == 2);
        CHECK(error.least()[0] <= 3);
    }
}

// Distortions come back unchanged, whenever the scale says that it is exact.
void fixedPointIsExact() {
    constexpr double least = std::numeric_limits<double>::denorm_min();
    constexpr double most = std::numeric_limits<double>::max();
    const auto survives = [](const char* what, const std::vector<double>& table, bool exact) {
        context = what;
        const FixedPoint scale = chooseFixedPoint(table, table.size());
        CHECK(scale.exact == exact);
        Value sum = 0;
        for (const double distortion : table) {
            const Value value = scale.fromDistortion(distortion);
            CHECK(!exact || scale.toDistortion(value) == distortion);
            CHECK(scale.fromDistortion(-distortion) == -value);
            sum += value < 0 ? -value : value;
            for (const double other : table)
                CHECK(distortion < other ? value < scale.fromDistortion(other) || !exact
                                         : value >= scale.fromDistortion(other));
        }
        CHECK(sum >= 0 && sum < static_cast<Value>(1) << 126);
    };
    survives("one", {1.0}, true);
    survives("zeros", {0.0, -0.0}, true);
    survives("negative zero", {-0.0, 1.0, -1.0}, true);
    survives("denormals", {least, -least, 3 * least, 1e-310, 0.0}, true);
    survives("across the denormals", {least, std::numeric_limits<double>::min(), 1e-300}, true);
    survives("decimal fractions", {0.1, 0.2, 0.3, -0.7, 1e9, 1e-9}, true);
    survives("largest", {most, -most, most, -most, most}, true);
    survives("smallest and largest", {least, most, 1.0, -least, -most}, false);
    survives("at the edge", {1.0, 0x1p-121}, false);
    survives("within the edge", {1.0, 0x1p-120}, true);
    context = "rounding";
    const std::vector<double> wide{1.0, 0x1.8p-120, 0x1p-121};
    const FixedPoint scale = chooseFixedPoint(wide, 2);
    CHECK(!scale.exact);
    CHECK(scale.fromDistortion(0x1.8p-120) == 2);  // halves go away from zero
    CHECK(scale.fromDistortion(-0x1p-121) == -1);
    CHECK(scale.fromDistortion(0x1p-122) == 0);
    CHECK(scale.fromDistortion(least) == 0);
    CHECK(scale.fromDistortion(1.0) == static_cast<Value>(1) << 120);
    for (std::uint64_t seed = 0; seed < 1000; ++seed) {
        Random random(seed);
        std::vector<double> table;
        const auto middle = static_cast<int>(random.integer(-1070, 960));
        for (int i = 0; i < 8; ++i)
            table.push_back(std::ldexp(random.uniform() - 0.5,
                                       middle + static_cast<int>(random.integer(0, 60))));
        survives("random", table, true);
    }
}

}  // namespace

int main() {
    fixedPointIsExact();
    refusesBadInput();
    traceBackPrefersTheTablesOrder();
    tiesGoToTheSmallestChoice(5, 4);
    tiesGoToTheSmallestChoice(100, 2);
    tiesGoToTheSmallestChoice(20, 101);
    optimalBeyondTheTiesLookedAt();
    solvesSeveralBudgets();
    equalsBruteForce(1, 10000);
    equalsBruteForce(2, 5000);
    equalsBruteForce(3, 1000);
    limitsKeepTheBoundValid(1, 2000);
    limitsKeepTheBoundValid(2, 2000);
    pollInterrupts();
    if (failures == 0) std::puts("all checks hold");
    return failures == 0 ? 0 : 1;
}
