#include "joint_solver.h"

#include <algorithm>
#include <cmath>

#include "joint_bound.h"
#include "joint_local.h"
#include "joint_surrogate.h"

namespace rdprune {

namespace {

struct Effort {
    std::size_t iterations = 150;  // of the relaxation
    std::size_t starts = 16;
    std::size_t rounds = 6;
    std::size_t kicks = 24;
    std::size_t perClass = 8;
};

constexpr std::uint64_t seed = 0x5eed;

// A descent polished by local search, again and again while either of them gains.
Descent polish(const JointProblem& problem, const Surrogate& surrogate, Descent descent,
               std::span<const Cost> budgets, std::size_t perClass, std::size_t kicks,
               Random& random, Watch& watch) {
    for (;;) {
        const GramProblem gram = makeGram(
            problem,
            shortlist(problem, descent.point, descent.changes, descent.multipliers, perClass));
        JointPoint found = searchLocally(problem, gram, descent.point, budgets,
                                         descent.multipliers, kicks, random, watch);
        if (!isBetter(problem, found, descent.point)) return descent;
        descent = descend(problem, surrogate, std::move(found), watch);
    }
}

struct Found {
    Descent best;
    JointRelaxation relaxation;
};

Found search(const JointProblem& problem, std::span<const Cost> budgets, const Limits& limits,
             const Effort& effort, Watch& watch) {
    const Surrogate surrogate(problem, budgets, limits);
    auto additive = surrogate.minimise(problem.additive, watch, std::size_t{1} << 22);
    if (!additive) additive = surrogate.minimise(problem.additive, watch, limits.bytes);
    if (!additive)
        throw std::runtime_error(
            "the limit ended the search before an allocation within all budgets was found; raise "
            "time_limit or memory_limit");
    Random random(seed);
    Found found{descend(problem, surrogate, makePoint(problem, additive->option), watch), {}};
    const auto offer = [&](Descent descent) {
        if (isBetter(problem, descent.point, found.best.point)) found.best = std::move(descent);
    };
    found.relaxation =
        relaxJoint(problem, surrogate, found.best.point, effort.iterations, watch);
    offer(descend(problem, surrogate, found.relaxation.best, watch));
    found.best = polish(problem, surrogate, std::move(found.best), budgets, effort.perClass, 0,
                        random, watch);
    std::vector<double> scaled(problem.options.size());
    for (std::size_t start = 0; start < effort.starts && !watch.expired(); ++start) {
        for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
            const double factor = std::exp(2.0 * random.unit() - 1.0);
            for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i)
                scaled[i] = factor * problem.squares[i];
        }
        const auto answer = surrogate.minimise(scaled, watch, std::size_t{1} << 20);
        if (!answer) continue;
        offer(polish(problem, surrogate,
                     descend(problem, surrogate, makePoint(problem, answer->option), watch),
                     budgets, effort.perClass, 0, random, watch));
    }
    found.best = polish(problem, surrogate, std::move(found.best), budgets, effort.perClass,
                        effort.kicks, random, watch);
    return found;
}

}  // namespace

JointSolution searchJoint(const JointInstance& instance, std::span<const Cost> budgets,
                          const Limits& limits) {
    const JointProblem problem = makeJointProblem(instance);
    Watch watch(limits);
    const Found found = search(problem, budgets, limits, {}, watch);
    JointSolution solution;
    solution.choice = problem.layerChoice(found.best.point.option);
    solution.distortion = problem.toDistortion(found.best.point.square);
    solution.lowerBound = problem.toDistortion(std::max(found.relaxation.bound, 0.0));
    solution.multipliers = found.best.multipliers;
    for (double& multiplier : solution.multipliers) multiplier = problem.toDistortion(multiplier);
    solution.optimal = solution.lowerBound >= solution.distortion;
    return solution;
}

JointSolution solveJoint(const JointInstance& instance, std::span<const Cost> budgets,
                         const Limits& limits) {
    return searchJoint(instance, budgets, limits);
}

}  // namespace rdprune
