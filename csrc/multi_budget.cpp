#include "multi_budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "multi_repair.h"
#include "multi_search.h"
#include "multipliers.h"
#include "single_budget.h"

namespace rdprune {

namespace {

constexpr std::size_t narrowBeam = 64;
constexpr std::size_t widerBeam = 256;
constexpr std::size_t wideBeam = 4096;
constexpr std::size_t undecided = 12;  // classes with an alternative within the first beam's gap
constexpr double beamReach = 8.0;      // times that gap; and again as long as there is nothing
constexpr double targetGrowth = 4.0;
constexpr double firstShare = 0x1p-6;  // of the gap left by the beam, for the first search
constexpr double noGap = std::numeric_limits<double>::infinity();

std::vector<Cost> leastCosts(const Problem& problem) {
    std::vector<Cost> least(problem.dimensions);
    for (std::size_t d = 0; d < problem.dimensions; ++d) least[d] = problem.leastCost(d);
    return least;
}

LagrangianBase makeBase(const Problem& problem, std::span<const Cost> budgets, Watch& watch) {
    LagrangianBase base;
    base.multipliers = findMultipliers(problem, budgets, watch);
    base.option = minimiseLagrangian(problem, base.multipliers);
    // Again, by differences to what was found: beside a large one small ones are lost.
    base.option = minimiseLagrangian(problem, base.multipliers, base.option);
    base.slack.assign(budgets.begin(), budgets.end());
    base.value = problem.totalValue(base.option);
    for (std::size_t d = 0; d < problem.dimensions; ++d) {
        for (const std::size_t option : base.option)
            base.slack[d] -= problem.costs[option * problem.dimensions + d];
        base.bound -= base.multipliers[d] * static_cast<double>(base.slack[d]);
    }
    return base;
}

// The gap to the bound within which so many classes have an option besides the base's.
double undecidedGap(const Problem& problem, const LagrangianBase& base) {
    const std::size_t dimensions = problem.dimensions;
    std::vector<double> nearest;
    for (std::size_t cls = 0; cls < problem.size(); ++cls) {
        const std::size_t origin = base.option[cls];
        double least = noGap;
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i) {
            if (i == origin) continue;
            double reduced = toDouble(problem.values[i] - problem.values[origin]);
            for (std::size_t d = 0; d < dimensions; ++d)
                reduced += base.multipliers[d] *
                           static_cast<double>(problem.costs[i * dimensions + d] -
                                               problem.costs[origin * dimensions + d]);
            least = std::min(least, reduced);
        }
        if (least < noGap) nearest.push_back(std::max(least, 0.0));
    }
    if (nearest.empty()) return 0.0;
    const auto rank =
        nearest.begin() + static_cast<std::ptrdiff_t>(std::min(undecided, nearest.size() - 1));
    std::nth_element(nearest.begin(), rank, nearest.end());
    return *rank;
}

// A good allocation, by beams that look further and further from the bound: few options are near it.
MultiSearch searchBeams(const Problem& problem, const LagrangianBase& base, std::size_t& states,
                        Watch& watch) {
    const auto beam = [&](double gap, std::size_t width) {
        MultiSearch found = searchVectors(problem, base, gap, width, watch);
        states += found.states;
        return found;
    };
    double reach = beamReach * undecidedGap(problem, base);
    MultiSearch found;
    bool whole = reach == 0.0;  // no option left out
    while (!whole && found.outcome == MultiSearch::Outcome::nothing) {
        found = beam(reach, narrowBeam);
        whole = !found.cut;
        reach *= beamReach;
    }
    for (const std::size_t width : {narrowBeam, wideBeam})
        if (found.outcome == MultiSearch::Outcome::nothing) found = beam(noGap, width);
    if (found.outcome != MultiSearch::Outcome::found) return found;
    MultiSearch wider = beam(found.gap, widerBeam);
    const bool better = wider.outcome == MultiSearch::Outcome::found && wider.gap <= found.gap;
    return better ? wider : found;
}

}  // namespace

Solution solveMultiBudget(const Problem& problem, std::span<const Cost> budgets,
                          const Limits& limits) {
    const std::vector<Cost> least = leastCosts(problem);
    for (std::size_t d = 0; d < problem.dimensions; ++d)
        if (least[d] > budgets[d]) throw InfeasibleBudget(least);
    Watch watch(limits);
    const LagrangianBase base = makeBase(problem, budgets, watch);
    Solution solution;
    for (const double multiplier : base.multipliers)
        solution.multipliers.push_back(problem.scale.toDistortion(multiplier));

    MultiSearch best = searchBeams(problem, base, solution.states, watch);
    const bool known = best.outcome == MultiSearch::Outcome::found;
    double gap = known ? best.gap * firstShare : noGap;
    double proved = 0.0;
    while (!solution.optimal) {
        const double width = gap;
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
            gap = !known || width >= best.gap
                      ? noGap
                      : std::min(best.gap, std::max(gap * targetGrowth, firstShare * best.gap));
        }
    }
    if (best.outcome != MultiSearch::Outcome::found) {
        auto option = findWithin(problem, budgets, base.multipliers, watch);
        if (!option)
            throw std::runtime_error(
                "the limit ended the search before an allocation within all budgets was found; "
                "raise time_limit or memory_limit");
        best.option = std::move(*option);
    }
    solution.choice = problem.layerChoice(best.option);
    if (solution.optimal) {
        settle(problem, best.option, solution);
    } else {
        const double margin =
            0x1p-44 * (std::abs(base.bound) + lagrangianScale(problem, base.multipliers));
        solution.lowerBound = problem.unrounded(problem.scale.toDistortion(
            static_cast<double>(base.value) + base.bound + proved - margin));
    }
    return solution;
}

}  // namespace rdprune
