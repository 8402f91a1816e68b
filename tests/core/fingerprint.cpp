// Solves a few hundred tables and prints what came out, bit for bit, so that builds can be compared:
// .ci/builds runs it as different compilers and options make it.
#include <bit>
#include <cinttypes>
#include <cstdio>

#include "tables.h"

namespace {

using namespace rdprune;
using namespace rdprune::test;

// Rising curves with noise on layers of very different sizes; also some that tie.
Table middlingTable(Random& random, std::size_t dimensions) {
    Table table;
    table.dimensions = dimensions;
    const std::int64_t layers = random.integer(5, 30);
    const std::int64_t levels = random.integer(3, 40);
    const bool ties = random.integer(0, 3) == 0;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        const double scale = random.uniform() * random.uniform() * random.uniform();
        std::vector<Cost> sizes(dimensions);
        for (Cost& size : sizes) size = random.integer(100, 100000) * random.integer(1, 100);
        std::vector<Cost> costs;
        std::vector<Distortion> distortions;
        for (std::int64_t level = 0; level < levels; ++level) {
            for (const Cost size : sizes) costs.push_back(size * (levels - 1 - level) / levels);
            const double x = static_cast<double>(level) / static_cast<double>(levels);
            const double noise = 0.95 + 0.1 * random.uniform();
            distortions.push_back(ties ? static_cast<double>(level) : scale * x * x * x * noise);
        }
        table.addLayer(costs, distortions);
    }
    return table;
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t next) {
    return (hash ^ next) * 0x100000001b3 + (hash >> 29);
}

std::uint64_t fingerprint(const Solution& solution) {
    std::uint64_t hash = solution.optimal ? 1 : 2;
    for (const Index index : solution.choice) hash = mix(hash, static_cast<std::uint64_t>(index));
    for (const double price : solution.multipliers)
        hash = mix(hash, std::bit_cast<std::uint64_t>(price));
    hash = mix(hash, std::bit_cast<std::uint64_t>(solution.lowerBound));
    return mix(hash, solution.states);
}

}  // namespace

int main() {
    Random random(7);
    for (int seed = 0; seed < 300; ++seed) {
        const auto dimensions = static_cast<std::size_t>(1 + seed % 3);
        Table table = middlingTable(random, dimensions);
        for (std::size_t d = 0; d < dimensions; ++d) {
            Cost total = 0;
            for (std::size_t layer = 0; layer < table.layers(); ++layer)
                total += table.costs[table.flat(layer, 0) * dimensions + d];
            table.budgets.push_back(total / random.integer(2, 5));
        }
        Limits limits;
        limits.bytes = seed % 5 == 0 ? std::size_t{1} << 16 : std::size_t{1} << 26;
        try {
            const Solution solution = table.solve(limits);
            std::printf("%d: %s, %zu states, %016" PRIx64 "\n", seed,
                        solution.optimal ? "optimal" : "feasible", solution.states,
                        fingerprint(solution));
        } catch (const std::runtime_error& error) {
            std::printf("%d: %s\n", seed, error.what());
        }
    }
}
