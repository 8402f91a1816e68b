// Batches in threads against single solves; runs under the thread sanitizer.
#include "batch.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "tables.h"

namespace {

using namespace rdprune;
using namespace rdprune::test;

// Rows of distortions, the table's own first and others with noise.
std::vector<Distortion> noisyRows(Random& random, const Table& table, std::size_t rows) {
    std::vector<Distortion> all = table.distortions;
    for (std::size_t row = 1; row < rows; ++row)
        for (const Distortion distortion : table.distortions)
            all.push_back(random.integer(0, 2) == 0 ? distortion : distortion + random.uniform());
    return all;
}

Instance withRows(const Table& table, const std::vector<Distortion>& rows) {
    Instance instance = table.instance();
    instance.distortions = rows;
    return instance;
}

// Layers that share nothing, of so many options, for searches that last a while.
Table mediumTable(std::size_t dimensions) {
    Random random(7);
    Table table;
    table.dimensions = dimensions;
    for (int layer = 0; layer < 12; ++layer) {
        std::vector<Cost> costs(9 * dimensions);
        std::vector<Distortion> distortions(9);
        for (Cost& cost : costs) cost = random.integer(0, 1000000);
        for (Distortion& distortion : distortions) distortion = random.uniform();
        table.addLayer(costs, distortions);
    }
    table.budgets.assign(dimensions, 4000000);
    return table;
}

bool same(const Solution& a, const Solution& b) {
    return a.choice == b.choice && a.optimal == b.optimal && a.lowerBound == b.lowerBound &&
           a.multipliers == b.multipliers && a.states == b.states;
}

// Each answer is the one of a single solve, to the last bit, for any number of threads.
void equalsSingleSolves(const Table& table, std::size_t rows, const Limits& limits) {
    Random random(11);
    const std::vector<Distortion> all = noisyRows(random, table, rows);
    std::vector<Solution> single;
    for (std::size_t row = 0; row < rows; ++row) {
        Table one = table;
        const auto begin =
            all.begin() + static_cast<std::ptrdiff_t>(row * table.distortions.size());
        one.distortions.assign(begin,
                               begin + static_cast<std::ptrdiff_t>(table.distortions.size()));
        single.push_back(one.solve(limits));
    }
    for (const std::size_t threads : {1, 2, 3, 8}) {
        context = std::to_string(threads) + " threads, " + std::to_string(rows) + " rows";
        const auto found = solveBatch(withRows(table, all), table.budgets, threads, limits);
        CHECK(found.size() == rows);
        for (std::size_t row = 0; row < rows; ++row) CHECK(same(found[row], single[row]));
    }
}

void smallTablesEqualSingleSolves() {
    int infeasible = 0;
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        Random random(seed);
        const Table table = smallTable(random, 1 + seed % 2);
        context = "seed " + std::to_string(seed);
        if (bruteForce(table)) {
            equalsSingleSolves(table, 5, {});
        } else {
            ++infeasible;
            const std::vector<Distortion> all = noisyRows(random, table, 5);
            CHECK(throws<InfeasibleBudget>(
                [&] { (void)solveBatch(withRows(table, all), table.budgets, 2, {}); }));
        }
    }
    CHECK(infeasible > 5);
}

// Of several bad rows the first is named, whichever thread meets one first.
void namesTheFirstBadRow() {
    const Table table = mediumTable(1);
    Random random(5);
    std::vector<Distortion> all = noisyRows(random, table, 40);
    for (const std::size_t row : {17, 18, 19, 39})
        all[row * table.distortions.size() + 3] = std::nan("");
    for (const std::size_t threads : {1, 2, 8}) {
        context = std::to_string(threads) + " threads, bad rows";
        try {
            (void)solveBatch(withRows(table, all), table.budgets, threads, {});
            CHECK(!"must be refused");
        } catch (const std::invalid_argument& error) {
            CHECK(std::string(error.what()) == "instance 17: distortion of layer 0 must be finite");
        }
    }
}

// What `poll` throws ends all threads and comes through.
void pollInterrupts() {
    context = "poll";
    struct Interrupt {};
    const Table table = mediumTable(1);
    Random random(5);
    const std::vector<Distortion> all = noisyRows(random, table, 20000);
    std::atomic<int> polls = 0;
    Limits limits;
    limits.poll = [&] {
        ++polls;
        throw Interrupt{};
    };
    CHECK(throws<Interrupt>(
        [&] { (void)solveBatch(withRows(table, all), table.budgets, 4, limits); }));
    CHECK(polls == 1);
}

void refusesBadInput() {
    context = "bad input";
    const Table table = mediumTable(1);
    const std::vector<Distortion> none;
    std::vector<Distortion> ragged = table.distortions;
    ragged.push_back(0.0);
    const auto refused = [](const Instance& instance, std::vector<Cost> budgets,
                            std::size_t threads) {
        CHECK(throws<std::invalid_argument>(
            [&] { (void)solveBatch(instance, budgets, threads, {}); }));
    };
    refused(withRows(table, none), table.budgets, 1);
    refused(withRows(table, ragged), table.budgets, 1);
    refused(table.instance(), {1, 2}, 1);
    refused(table.instance(), {-1}, 1);
    refused(table.instance(), table.budgets, 0);
    refused(Instance{}, {}, 1);
}

}  // namespace

int main() {
    smallTablesEqualSingleSolves();
    equalsSingleSolves(mediumTable(1), 50, {});
    equalsSingleSolves(mediumTable(2), 6, {});
    Limits tight;
    tight.bytes = 2000;
    equalsSingleSolves(mediumTable(1), 20, tight);
    namesTheFirstBadRow();
    pollInterrupts();
    refusesBadInput();
    if (failures == 0) std::puts("all checks hold");
    return failures == 0 ? 0 : 1;
}
