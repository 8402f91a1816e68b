// Parts of the solvers that no small table reaches, against plain ways to the same.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "buffer.h"
#include "joint_narrow.h"
#include "joint_surrogate.h"
#include "multi_repair.h"
#include "numbering.h"
#include "products.h"
#include "tables.h"

namespace {

using namespace rdprune;
using namespace rdprune::test;
using test::Random;

// Few positions and many are numbered as sorting would number them.
void numbersAscend() {
    Random random(1);
    const Limits limits;
    Watch watch(limits);
    for (const std::size_t count : {0, 1, 100, 4095, 4096, 100000})
        for (const std::int64_t positions : {1, 64, 1000, 1000000}) {
            context = std::to_string(count) + " of " + std::to_string(positions);
            std::vector<std::size_t> found(count);
            for (std::size_t& position : found)
                position = static_cast<std::size_t>(random.integer(0, positions - 1));
            std::vector<std::size_t> sorted = found;
            std::sort(sorted.begin(), sorted.end());
            sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
            Numbering numbering(found, static_cast<std::size_t>(positions), watch);
            bool right = true;
            for (std::size_t i = 0; i < sorted.size(); ++i)
                right = right && numbering.numberOf(sorted[i]) == i;
            CHECK(right);
            CHECK(std::move(numbering).ascending() == sorted);
        }
}

// Given back piece by piece, a buffer is empty, and whole if a look throws.
void buffersAreGivenBack() {
    context = "buffer";
    struct Interrupt {};
    Buffer<int> buffer;
    const std::size_t size = 5 * largeBytes / sizeof(int);
    buffer.reserve(size);
    for (std::size_t i = 0; i < size; ++i) buffer[i] = static_cast<int>(i);
    CHECK(throws<Interrupt>([&] { buffer.giveBack([] { throw Interrupt{}; }); }));
    CHECK(buffer[1000] == 1000);
    int looks = 0;
    buffer.giveBack([&] { ++looks; });
    CHECK(looks >= 3);
    CHECK(buffer.data() == nullptr);
    buffer.reserve(7);
    buffer[6] = 6;
    CHECK(buffer[6] == 6);
}

// Bit for bit the eight interleaved sums, whatever the registers they are made in.
void productsHaveOneOrder() {
    Random random(2);
    for (const std::size_t length : {8, 16, 256, 1000}) {
        context = "products of " + std::to_string(length);
        const std::size_t rows = 5;
        std::vector<double> numbers((rows + 1) * length);
        for (double& number : numbers) number = random.uniform() - 0.3;
        const double* first = numbers.data();
        std::vector<double> found(rows);
        products(first, first + length, rows, length, found.data());
        for (std::size_t row = 0; row < rows; ++row) {
            const double* other = first + (row + 1) * length;
            double sum[8] = {};
            for (std::size_t i = 0; i < length; ++i) {
                const volatile double product = first[i] * other[i];
                sum[i % 8] += product;
            }
            const double expected =
                ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
            CHECK(found[row] == expected);
            CHECK(dot(first, other, length) == expected);
        }
    }
}

// Of a wide class with several costs, those that no other one dominates are left, and no others.
void wideClassesKeepWhatIsNotDominated() {
    for (const std::size_t dimensions : {2, 3}) {
        context = std::to_string(dimensions) + " costs";
        Random random(dimensions);
        Table table;
        table.dimensions = dimensions;
        constexpr std::size_t options = 700;
        std::vector<Cost> costs(options * dimensions);
        std::vector<Distortion> distortions(options);
        for (Cost& cost : costs) cost = random.integer(0, 60);
        for (Distortion& d : distortions) d = static_cast<double>(random.integer(0, 60));
        table.addLayer(costs, distortions);
        const auto dominates = [&](std::size_t a, std::size_t b) {
            bool better = distortions[a] < distortions[b];
            if (distortions[a] > distortions[b]) return false;
            for (std::size_t d = 0; d < dimensions; ++d) {
                const Cost left = costs[a * dimensions + d];
                const Cost right = costs[b * dimensions + d];
                if (left > right) return false;
                better = better || left < right;
            }
            return better || a < b;
        };
        std::vector<Index> expected;
        for (std::size_t b = 0; b < options; ++b) {
            bool free = true;
            for (std::size_t a = 0; a < options && free; ++a) free = a == b || !dominates(a, b);
            if (free) expected.push_back(static_cast<Index>(b));
        }
        const Limits limits;
        Watch watch(limits);
        std::vector<Index> left = makeProblem(table.instance(), watch).options;
        std::sort(left.begin(), left.end());
        CHECK(left == expected);
        CHECK(left.size() > 10);
    }
}

// What is found without a search keeps the budgets; seldom is there one and none is found.
void findsWithinBudgets(std::size_t dimensions, int tables) {
    int feasible = 0;
    int missed = 0;
    for (int seed = 0; seed < tables; ++seed) {
        context = std::to_string(dimensions) + " costs, seed " + std::to_string(seed);
        Random random(static_cast<std::uint64_t>(seed));
        const Table table = smallTable(random, dimensions);
        const Limits limits;
        Watch watch(limits);
        const Problem problem = makeProblem(table.instance(), watch);
        const std::vector<double> multipliers(dimensions, 0.0);
        const auto option = findWithin(problem, table.budgets, multipliers, watch);
        if (option) CHECK(rank(table, scaleOf(table), problem.layerChoice(*option)).has_value());
        if (!bruteForce(table)) continue;
        ++feasible;
        if (!option) ++missed;
    }
    context = std::to_string(missed) + " of " + std::to_string(feasible) + " missed";
    std::printf("%s\n", context.c_str());
    CHECK(feasible > tables / 4);
    CHECK(missed < feasible / 50);
}

// Layers of one cost whose responses lie in some directions that they share, but for noise.
JointProblem sharedDirections(std::size_t layers, std::size_t options, std::size_t rank,
                              double noise, bool offset) {
    constexpr std::size_t width = 200;
    Random random(layers);
    std::vector<double> directions(rank * width);
    for (double& number : directions) number = random.uniform() - 0.5;
    Table table;
    table.dimensions = 1;
    std::vector<float> responses;
    for (std::size_t layer = 0; layer < layers; ++layer) {
        std::vector<Cost> costs(options);
        std::vector<Distortion> distortions(options, 1.0);
        for (std::size_t option = 0; option < options; ++option) {
            costs[option] = static_cast<Cost>(options - option);
            std::vector<double> row(width, 0.0);
            for (std::size_t d = 0; d < rank; ++d) {
                const double share = random.uniform() - 0.5;
                for (std::size_t i = 0; i < width; ++i) row[i] += share * directions[d * width + i];
            }
            for (const double number : row)
                responses.push_back(static_cast<float>(number + noise * (random.uniform() - 0.5)));
        }
        table.addLayer(costs, distortions);
    }
    std::vector<double> start(width, 0.0);
    if (offset)
        for (double& number : start) number = random.uniform() - 0.5;
    const Limits limits;
    Watch watch(limits);
    return makeJointProblem({table.instance(), responses, start, width}, watch);
}

// Exact where all responses lie in few directions; else squares and changes are of one objective.
void narrowProblemsKeepTheirSquares() {
    for (const bool offset : {false, true})
        for (const double noise : {0.0, 0.4}) {
            context = "noise " + std::to_string(noise) + (offset ? ", offset" : "");
            const JointProblem problem = sharedDirections(9, 20, 30, noise, offset);
            rdprune::Random seeded(3);
            const Limits limits;
            Watch watch(limits);
            const JointProblem narrow = narrowed(problem, 64, seeded, watch).value();
            CHECK(narrow.width == 64);
            std::vector<std::size_t> option(problem.offsets.begin(), problem.offsets.end() - 1);
            for (std::size_t cls = 0; cls < option.size(); ++cls) option[cls] += 2 * cls + 1;
            const JointPoint full = makePoint(problem, option);
            const JointPoint point = makePoint(narrow, option);
            double left = 0.0;
            for (std::size_t i = 0; i < narrow.options.size(); ++i) {
                const double inside = dot(narrow.response(i), narrow.response(i), narrow.width);
                CHECK(std::abs(inside + narrow.own[i] - problem.squares[i]) <=
                      1e-9 * problem.squares[i]);
                left = std::max(left, narrow.own[i] / problem.squares[i]);
            }
            CHECK(noise > 0.0 ? left > 1e-3 && left < 0.1 : left < 1e-6);
            CHECK(std::abs(point.square - full.square) <= (noise > 0.0 ? 0.2 : 1e-5) * full.square);
            std::vector<double> distances;
            const std::vector<double> changes = singleChanges(narrow, point, distances);
            for (std::size_t i = 0; i < narrow.options.size(); ++i) {
                std::vector<std::size_t> other = option;
                other[narrow.classFor[i]] = i;
                const double change = makePoint(narrow, other).square - point.square;
                CHECK(std::abs(changes[i] - change) <= 1e-9 * full.square);
            }
        }
}

}  // namespace

int main() {
    numbersAscend();
    buffersAreGivenBack();
    productsHaveOneOrder();
    wideClassesKeepWhatIsNotDominated();
    narrowProblemsKeepTheirSquares();
    findsWithinBudgets(2, 2000);
    findsWithinBudgets(3, 1000);
    if (failures == 0) std::puts("all checks hold");
    return failures == 0 ? 0 : 1;
}
