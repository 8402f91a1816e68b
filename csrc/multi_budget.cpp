#include "multi_budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "multi_search.h"
#include "multipliers.h"

namespace rdprune {

namespace {

constexpr std::size_t narrowBeam = 64;
constexpr std::size_t wideBeam = 4096;
constexpr double targetGrowth = 4.0;
constexpr double firstShare = 0x1p-6;  // of the gap left by the beam, for the first search
constexpr double noLimit = std::numeric_limits<double>::infinity();

std::vector<Cost> leastCosts(const Problem& problem) {
    std::vector<Cost> least(problem.dimensions);
    for (std::size_t d = 0; d < problem.dimensions; ++d) least[d] = problem.leastCost(d);
    return least;
}

LagrangianBase makeBase(const Problem& problem, std::span<const Cost> budgets) {
    LagrangianBase base;
    base.multipliers = findMultipliers(problem, budgets);
    base.option = minimiseLagrangian(problem, base.multipliers);
    base.slack.assign(budgets.begin(), budgets.end());
    base.value = problem.totalValue(base.option);
    for (std::size_t d = 0; d < problem.dimensions; ++d) {
        for (const std::size_t option : base.option)
            base.slack[d] -= problem.costs[option * problem.dimensions + d];
        base.bound -= base.multipliers[d] * static_cast<double>(base.slack[d]);
    }
    return base;
}

}  // namespace

Solution solveMultiBudget(const Problem& problem, std::span<const Cost> budgets,
                          const Limits& limits) {
    const std::vector<Cost> least = leastCosts(problem);
    for (std::size_t d = 0; d < problem.dimensions; ++d)
        if (least[d] > budgets[d]) throw InfeasibleBudget(least);
    Watch watch(limits);
    const LagrangianBase base = makeBase(problem, budgets);
    Solution solution;
    for (const double multiplier : base.multipliers)
        solution.multipliers.push_back(problem.scale.toDistortion(multiplier));

    MultiSearch best;
    for (const std::size_t beam : {narrowBeam, wideBeam}) {
        best = searchVectors(problem, base, noLimit, beam, watch);
        solution.states += best.states;
        if (best.outcome != MultiSearch::Outcome::nothing) break;
    }
    const bool known = best.outcome == MultiSearch::Outcome::found;
    double gap = known ? best.gap * firstShare : noLimit;
    double proved = 0.0;
    while (!solution.optimal) {
        const double width = known ? std::min(gap, best.gap) : gap;
        MultiSearch exact = searchVectors(problem, base, width, 0, watch);
        solution.states += exact.states;
        if (exact.outcome == MultiSearch::Outcome::limit) break;
        if (exact.outcome == MultiSearch::Outcome::found) {
            best = std::move(exact);
            solution.optimal = true;
        } else if (!exact.cut) {
            throw InfeasibleBudget(least);
        } else {
            proved = width;
            gap = width >= best.gap ? noLimit : std::max(gap * targetGrowth, firstShare * best.gap);
        }
    }
    if (best.outcome != MultiSearch::Outcome::found)
        throw std::runtime_error(
            "the limit ended the search before an allocation within all budgets was found; raise "
            "time_limit or memory_limit");
    solution.choice = problem.layerChoice(best.option);
    if (!solution.optimal) {
        const double margin =
            0x1p-44 * (std::abs(base.bound) + lagrangianScale(problem, base.multipliers));
        solution.lowerBound = problem.scale.toDistortion(static_cast<double>(base.value) +
                                                         base.bound + proved - margin);
    }
    return solution;
}

}  // namespace rdprune
