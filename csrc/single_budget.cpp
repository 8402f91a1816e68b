#include "single_budget.h"

#include <algorithm>
#include <cmath>

#include "list_search.h"
#include "multipliers.h"

namespace rdprune {

namespace {

constexpr std::size_t undecided = 12;   // classes with an alternative to the base's option
constexpr double beamReach = 3.0;       // times the gap within which so many are undecided
constexpr double leastShare = 0x1p-10;  // of the base's gap, for the first target
constexpr std::size_t firstBeam = 16;
constexpr std::size_t firstStates = std::size_t{1}
                                    << 16;  // for the exact search after the first beam
constexpr std::size_t growth = 8;           // of both

// Whether every class takes its option of least value.
bool takesLast(const Problem& problem, const Base& base) {
    for (std::size_t cls = 0; cls < problem.size(); ++cls)
        if (base.option[cls] + 1 != problem.offsets[cls + 1]) return false;
    return true;
}

Value toValue(double units) {
    constexpr double most = 0x1p125;
    return static_cast<Value>(std::clamp(units, -most, most));
}

}  // namespace

void settle(const Problem& problem, const std::vector<std::size_t>& option, Solution& solution) {
    solution.optimal = problem.scale.exact;
    if (!solution.optimal)
        solution.lowerBound =
            problem.unrounded(problem.scale.toDistortion(problem.totalValue(option)));
}

Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation, Cost budget,
                           const Limits& limits, Workspace& work) {
    if (relaxation.leastCost > budget) throw InfeasibleBudget({relaxation.leastCost});
    return solveSingleBudget(problem, relaxation, solveRelaxation(problem, relaxation, budget),
                             limits, work);
}

Solution solveSingleBudget(const Problem& problem, const Relaxation& relaxation, const Base& base,
                           const Limits& limits, Workspace& work) {
    Solution solution;
    solution.multipliers = {problem.scale.toDistortion(base.multiplier)};
    if (base.multiplier == 0.0 && takesLast(problem, base)) {
        solution.choice = problem.layerChoice(base.option);
        settle(problem, base.option, solution);
        return solution;
    }
    Watch watch(limits);
    work.startWithin(limits.bytes, watch);
    work.prices.compute(problem, relaxation, base);
    const double bound = -base.multiplier * static_cast<double>(base.slack);
    std::vector<std::size_t> best = base.option;
    Value bestValue = 0;
    double proved = bound - work.prices.shortfall;
    auto outcome = ListSearch::Outcome::nothing;
    bool exhausted = false;
    // True if that was the last search that is needed, or that there is time for.
    const auto search = [&](Value target, const Effort& effort) {
        ListSearch found = searchLists(problem, base, target, bestValue, effort, work, watch);
        solution.states += found.states;
        const bool better = found.value <= bestValue && !found.option.empty();
        if (better) {
            best = std::move(found.option);
            bestValue = found.value;
        }
        outcome = found.outcome;
        exhausted = exhausted || found.exhausted;
        solution.optimal = outcome == ListSearch::Outcome::found;
        if (!solution.optimal) proved = std::max(proved, found.bound);
        return solution.optimal || watch.expired();
    };
    double reach =
        beamReach * std::max(work.prices.undecidedGap(undecided), leastShare * std::abs(bound));
    // A target so low that nothing reaches it costs little, and shows how good an answer there is.
    bool done = false;
    bool nothing = true;
    while (!done && nothing && toValue(bound + reach) < bestValue) {
        done = search(toValue(bound + reach), {.beam = firstBeam});
        nothing = outcome == ListSearch::Outcome::nothing;
        reach *= beamReach;
    }
    if (nothing && !done) done = search(bestValue, {.beam = firstBeam});
    std::size_t beam = firstBeam;
    for (std::size_t states = firstStates; !done; states *= growth) {
        const bool last = states > watch.bytes() / stateBytes;
        done = search(bestValue, {.states = last ? noLimit : states}) || last;
        beam *= growth;
        done = done || search(bestValue, {.beam = beam}) || exhausted;
    }
    solution.choice = problem.layerChoice(best);
    if (solution.optimal) {
        settle(problem, best, solution);
    } else {
        const double margin =
            relativeMargin * (std::abs(bound) + lagrangianScale(problem, {base.multiplier}));
        solution.lowerBound = problem.unrounded(problem.scale.toDistortion(
            toDouble(problem.totalValue(base.option)) + proved - margin));
    }
    return solution;
}

}  // namespace rdprune
