#include "single_budget.h"

#include <algorithm>
#include <cmath>

#include "list_search.h"
#include "multipliers.h"

namespace rdprune {

namespace {

constexpr std::size_t beamWidth = 64;
constexpr std::size_t firstUndecided = 12;  // alternatives that the first, smallest target admits
constexpr double targetGrowth = 3.0;
constexpr double leastShare = 0x1p-10;  // of the greedy allocation's gap, for the first target
constexpr double beamReach = 16.0;      // how far beyond a failed target the beam looks

Value toValue(double units) {
    constexpr double most = 0x1p125;
    return static_cast<Value>(std::clamp(units, -most, most));
}

// Gap at which so many options besides the base are undecided.
double firstGap(std::vector<double> reduced) {
    const auto positive =
        std::partition(reduced.begin(), reduced.end(), [](double value) { return value <= 0.0; });
    if (positive == reduced.end()) return 0.0;
    const auto rank = std::min<std::ptrdiff_t>(firstUndecided, reduced.end() - positive - 1);
    std::nth_element(positive, positive + rank, reduced.end());
    return positive[rank];
}

}  // namespace

Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation, Cost budget,
                           const Limits& limits) {
    if (relaxation.totalCost.front() > budget) throw InfeasibleBudget({problem.leastCost(0)});
    const Base base = solveRelaxation(problem, relaxation, budget);
    Solution solution;
    solution.multipliers = {problem.scale.toDistortion(base.multiplier)};
    if (base.multiplier == 0.0) {
        solution.choice = problem.layerChoice(base.option);
        solution.optimal = true;
        return solution;
    }
    Watch watch(limits);
    const std::vector<double> reduced = reducedCosts(problem, base);
    std::vector<std::size_t> best = base.greedy;
    Value bestValue = -base.greedyGain;
    const double bound = -base.multiplier * static_cast<double>(base.slack);
    Value proved = toValue(bound);
    double gap = std::max(firstGap(reduced), leastShare * (toDouble(bestValue) - bound));
    while (!solution.optimal) {
        const Value target = std::min(bestValue, toValue(bound + gap));
        const ListSearch exact = searchLists(problem, base, reduced, target, 0, watch);
        solution.states += exact.states;
        if (exact.outcome == ListSearch::Outcome::limit) break;
        if (exact.outcome == ListSearch::Outcome::found) {
            best = exact.option;
            solution.optimal = true;
        }
        proved = target;
        if (solution.optimal) break;
        const Value hope = std::min(bestValue, toValue(bound + beamReach * gap));
        const ListSearch beam = searchLists(problem, base, reduced, hope, beamWidth, watch);
        solution.states += beam.states;
        if (beam.outcome == ListSearch::Outcome::found) {
            best = beam.option;
            bestValue = beam.value;
        }
        gap *= targetGrowth;
    }
    solution.choice = problem.layerChoice(best);
    if (!solution.optimal) {
        const double margin =
            0x1p-44 * (std::abs(bound) + lagrangianScale(problem, {base.multiplier}));
        solution.lowerBound = problem.scale.toDistortion(
            static_cast<double>(problem.totalValue(base.option) + proved) - margin);
        solution.optimal = proved == bestValue;
    }
    return solution;
}

}  // namespace rdprune
