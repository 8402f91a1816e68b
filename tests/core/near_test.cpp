// Near-optimal sets against brute force, so that they can run under sanitizers.
#include "near_optimal.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tables.h"

namespace {

using namespace rdprune;
using namespace rdprune::test;

NearOptimal solveNear(const Table& table, const Nearness& nearness, const Limits& limits = {}) {
    return solveNearOptimal(table.instance(), table.budgets.front(), nearness, limits);
}

// Ranks whose distortion is within the distance of the first one's.
std::vector<Rank> within(const Table& table, const std::vector<Rank>& ranks,
                         const Nearness& nearness) {
    const FixedPoint scale = scaleOf(table);
    const Value best = std::get<0>(ranks.front());
    if (std::isinf(nearness.relative)) return ranks;
    const double distance =
        std::max(nearness.relative * std::abs(scale.toDistortion(best)), nearness.absolute);
    const double units = std::min(std::floor(std::ldexp(distance, -scale.exponent)), 0x1p125);
    std::vector<Rank> near;
    for (const Rank& rank : ranks)
        if (std::get<0>(rank) - best <= static_cast<Value>(units)) near.push_back(rank);
    return near;
}

// The list is the exhaustive search's, in its order, and so is what is said of the rest.
void checkList(const Table& table, const std::vector<Rank>& ranks, const Nearness& nearness) {
    const NearOptimal found = solveNear(table, nearness);
    const std::vector<Rank> near = within(table, ranks, nearness);
    const std::size_t count = std::min(near.size(), nearness.most);
    CHECK(found.optimal);
    CHECK(found.choices.size() == count);
    CHECK(found.complete == (near.size() < nearness.most));
    for (std::size_t i = 0; i < std::min(count, found.choices.size()); ++i)
        CHECK(found.choices[i] == std::get<2>(near[i]));
    const FixedPoint scale = scaleOf(table);
    if (count < ranks.size())
        CHECK(found.lowerBound <= scale.toDistortion(std::get<0>(ranks[count])));
    else
        CHECK(found.lowerBound >= scale.toDistortion(std::get<0>(ranks.back())));
}

void equalsBruteForce(int tables) {
    int infeasible = 0;
    for (int seed = 0; seed < tables; ++seed) {
        Random random(static_cast<std::uint64_t>(seed));
        const Table table = smallTable(random, 1);
        const std::vector<Rank> ranks = rankAll(table);
        if (ranks.empty()) {
            ++infeasible;
            CHECK(throws<InfeasibleBudget>([&] { (void)solveNear(table, {}); }));
            continue;
        }
        for (const std::size_t most : {1, 2, 3, 10, 5000}) {
            context = "seed " + std::to_string(seed) + ", " + std::to_string(most);
            checkList(table, ranks, {.most = most});
            for (const double gap : {0.0, 0.25, 4.0}) {
                checkList(table, ranks, {.most = most, .relative = gap, .absolute = 0.0});
                checkList(table, ranks, {.most = most, .relative = 0.0, .absolute = gap});
            }
        }
    }
    context = std::to_string(infeasible) + " infeasible";
    CHECK(infeasible > tables / 10 && infeasible < tables * 2 / 3);
}

// Stopped at a limit, what is listed is feasible and in order, and nothing better than the bound is not
// listed; a list said to be the best is.
void limitsKeepTheBoundValid(int tables) {
    int stopped = 0;
    for (int seed = 0; seed < tables; ++seed) {
        Random random(static_cast<std::uint64_t>(seed));
        const Table table = smallTable(random, 1);
        const FixedPoint scale = scaleOf(table);
        const std::vector<Rank> ranks = rankAll(table);
        if (ranks.empty()) continue;
        for (const std::size_t bytes : {0, 300, 1000, 5000}) {
            context = "seed " + std::to_string(seed) + ", " + std::to_string(bytes) + " bytes";
            Limits limits;
            limits.bytes = bytes;
            const NearOptimal found = solveNear(table, {.most = 6}, limits);
            CHECK(!found.choices.empty());
            std::vector<Rank> listed;
            for (const auto& choice : found.choices) {
                const auto reached = rank(table, scale, choice);
                CHECK(reached.has_value());
                if (reached) listed.push_back(*reached);
            }
            for (std::size_t i = 1; i < listed.size(); ++i) CHECK(listed[i - 1] < listed[i]);
            CHECK(found.bestOptimal || !found.optimal);
            if (found.optimal)
                for (std::size_t i = 0; i < listed.size(); ++i) CHECK(listed[i] == ranks[i]);
            else
                ++stopped;
            if (found.bestOptimal) CHECK(listed.front() == ranks.front());
            for (const Rank& rank : ranks)
                if (std::find(listed.begin(), listed.end(), rank) == listed.end())
                    CHECK(scale.toDistortion(std::get<0>(rank)) >= found.lowerBound);
        }
    }
    context = std::to_string(stopped) + " stopped";
    CHECK(stopped > tables / 20);
}

// With everything a tie, the list is the first choices in lexicographic order.
void tiesAreListedInOrder() {
    context = "ties";
    Table table;
    for (int layer = 0; layer < 30; ++layer) table.addLayer({0, 1, 2}, {0.0, -1.0, -2.0});
    table.budgets = {30};
    const NearOptimal found = solveNear(table, {.most = 200});
    CHECK(found.optimal);
    CHECK(!found.complete);
    CHECK(found.choices.size() == 200);
    const FixedPoint scale = scaleOf(table);
    for (std::size_t i = 0; i < found.choices.size(); ++i) {
        const auto reached = rank(table, scale, found.choices[i]);
        CHECK(reached && std::get<1>(*reached).front() == 30);
        if (i > 0) CHECK(found.choices[i - 1] < found.choices[i]);
    }
    std::vector<Index> smallest(30, 0);
    std::fill(smallest.begin() + 15, smallest.end(), 2);
    CHECK(found.choices.front() == smallest);
}

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
    table.budgets = {Cost{45} << 40};
    Limits limits;
    limits.poll = [] { throw Interrupt{}; };
    CHECK(throws<Interrupt>([&] { (void)solveNear(table, {.most = 5}, limits); }));
}

void refusesBadInput() {
    context = "bad input";
    Table table;
    table.addLayer({3, 1}, {0.0, 1.0});
    table.budgets = {4};
    CHECK(solveNear(table, {.most = 2}).choices.size() == 2);
    const auto refused = [](const Table& bad, const Nearness& nearness) {
        CHECK(throws<std::invalid_argument>([&] { (void)solveNear(bad, nearness); }));
    };
    refused(table, {.most = 0});
    refused(table, {.most = 100001});
    refused(table, {.most = 1, .relative = -1.0});
    refused(table, {.most = 1, .absolute = std::nan("")});
    Table wide = table;
    wide.dimensions = 2;
    wide.costs.resize(4, 1);
    refused(wide, {.most = 1});
    table.budgets = {-1};
    refused(table, {.most = 1});
}

}  // namespace

int main() {
    equalsBruteForce(1500);
    limitsKeepTheBoundValid(1500);
    tiesAreListedInOrder();
    pollInterrupts();
    refusesBadInput();
    if (failures == 0) std::puts("all checks hold");
    return failures == 0 ? 0 : 1;
}
