#include "single_budget.h"

#include <algorithm>
#include <cmath>

#include "list_search.h"
#include "multipliers.h"

namespace rdprune {

namespace {

constexpr std::size_t beamWidth = 32;
constexpr std::size_t firstUndecided = 12;  // classes with an alternative at the first target
constexpr double targetGrowth = 3.0;
constexpr double leastShare = 0x1p-10;  // of the base's gap, for the first target
constexpr double beamReach = 8.0;       // how far beyond a failed target the beam looks
// States that a target may take while a beam could still give a closer one; eight times more each time.
constexpr std::size_t firstStates = std::size_t{1} << 12;

Value toValue(double units) {
    constexpr double most = 0x1p125;
    return static_cast<Value>(std::clamp(units, -most, most));
}

}  // namespace

Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation, Cost budget,
                           const Limits& limits, Workspace& work) {
    if (relaxation.leastCost > budget) throw InfeasibleBudget({relaxation.leastCost});
    const Base base = solveRelaxation(problem, relaxation, budget);
    Solution solution;
    solution.multipliers = {problem.scale.toDistortion(base.multiplier)};
    if (base.multiplier == 0.0) {
        solution.choice = problem.layerChoice(base.option);
        solution.optimal = true;
        return solution;
    }
    Watch watch(limits);
    std::vector<std::size_t> best = base.option;
    Value bestValue = 0;
    const double bound = -base.multiplier * static_cast<double>(base.slack);
    Value proved = toValue(bound);
    double gap = std::max(undecidedGap(problem, relaxation, base, firstUndecided),
                          leastShare * std::abs(bound));
    for (std::size_t most = firstStates;; most *= 8) {
        const Value target = std::min(bestValue, toValue(bound + gap));
        const bool last = target == bestValue;
        ListSearch exact = searchLists(problem, relaxation, base, target,
                                       {.states = last ? noLimit : most}, work, watch);
        solution.states += exact.states;
        if (exact.outcome == ListSearch::Outcome::found) {
            best = std::move(exact.option);
            solution.optimal = true;
        }
        if (solution.optimal || (exact.outcome == ListSearch::Outcome::limit && last)) break;
        if (exact.outcome == ListSearch::Outcome::nothing) proved = target;
        const Value hope = std::min(bestValue, toValue(bound + beamReach * gap));
        ListSearch beam =
            searchLists(problem, relaxation, base, hope, {.beam = beamWidth}, work, watch);
        solution.states += beam.states;
        if (beam.outcome == ListSearch::Outcome::found) {
            best = std::move(beam.option);
            bestValue = beam.value;
        }
        if (watch.expired()) break;
        gap *= targetGrowth;
    }
    solution.choice = problem.layerChoice(best);
    if (!solution.optimal) {
        const double margin =
            0x1p-44 * (std::abs(bound) + lagrangianScale(problem, {base.multiplier}));
        solution.lowerBound =
            problem.scale.toDistortion(toDouble(problem.totalValue(base.option) + proved) - margin);
    }
    return solution;
}

}  // namespace rdprune
