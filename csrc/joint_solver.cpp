#include "joint_solver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "exponential.h"
#include "joint_bound.h"
#include "joint_exact.h"
#include "joint_local.h"
#include "joint_narrow.h"
#include "joint_rounding.h"

namespace rdprune {

namespace {

constexpr std::uint64_t seed = 0x5eed;
constexpr std::size_t coarseOptions = 26;  // a class, where basins are looked for first
constexpr std::size_t iterations = 150;    // of the relaxation
constexpr std::size_t fewestSteps = 24;    // of a gradual rounding; one a class is about right
constexpr std::size_t mostSteps = 160;
constexpr std::size_t fewestTrials = 3;
constexpr std::size_t mostTrials = 32;
constexpr std::size_t narrowWidth = 64;  // numbers in a response, for trials among all options
constexpr double trialWork = 2e8;        // multiplications spent on trials
constexpr std::size_t kept = 4;          // of the trials
constexpr std::size_t finalists = 2;     // of those, polished
constexpr std::size_t fewestKicks = 96;
constexpr std::size_t kicksPerClass = 2;
constexpr std::size_t firstBytes = std::size_t{1} << 22;
constexpr std::size_t exactWork = std::size_t{1} << 26;
constexpr std::size_t mostListed = 1120;  // options in one Gram matrix
constexpr std::size_t mostPerClass = 12;
constexpr double startSpread = 1.0;  // of the logarithms of scaled distortions

// Positions of at most `count` options of every class, evenly spaced in order of the first cost,
// and the given allocation's.
std::vector<std::size_t> coarsen(const JointProblem& problem, const JointPoint& keep,
                                 std::size_t count) {
    std::vector<std::size_t> options;
    std::vector<std::size_t> order;
    for (std::size_t cls = 0; cls < problem.classes(); ++cls) {
        order.clear();
        for (std::size_t i = problem.offsets[cls]; i < problem.offsets[cls + 1]; ++i)
            order.push_back(i);
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            return problem.costs[a * problem.dimensions] < problem.costs[b * problem.dimensions];
        });
        const std::size_t begin = options.size();
        const std::size_t last = order.size() - 1;
        const std::size_t steps = std::min(count - 1, last);
        options.push_back(keep.option[cls]);
        for (std::size_t step = 0; step <= steps; ++step)
            options.push_back(order[steps == 0 ? 0 : step * last / steps]);
        const auto first = options.begin() + static_cast<std::ptrdiff_t>(begin);
        std::sort(first, options.end());
        options.erase(std::unique(first, options.end()), options.end());
    }
    return options;
}

struct Search {
    const JointProblem& problem;
    std::span<const Cost> budgets;
    const Limits& limits;
    std::size_t effort;
    Watch& watch;
    Random random{seed};

    // Options whose Gram matrix is within the memory.
    [[nodiscard]] std::size_t fitting() const {
        const double most = static_cast<double>(limits.bytes / sizeof(double));
        return std::min(mostListed, static_cast<std::size_t>(std::sqrt(most)));
    }

    // A descent polished by local search, again and again while either of them gains.
    Descent polish(const Surrogate& surrogate, Descent descent, std::size_t jumps) {
        const std::size_t perClass =
            std::min<std::size_t>(fitting() / problem.classes(), mostPerClass);
        if (perClass < 2) return descent;
        for (;;) {
            if (watch.expired()) return descent;
            const GramProblem gram = makeGram(
                problem,
                shortlist(problem, descent.point, descent.changes, descent.multipliers, perClass));
            JointPoint found = searchLocally(problem, gram, descent.point, budgets,
                                             descent.multipliers, jumps, random, watch);
            if (!isBetter(problem, found, descent.point)) return descent;
            descent = descend(problem, surrogate, std::move(found), watch);
            jumps = 0;
        }
    }

    // Adds what a descent from the point leads to, and keeps the best, all different, best first.
    void offer(std::vector<Descent>& found, std::size_t most, const JointProblem& part,
               const Surrogate& surrogate, JointPoint point) {
        found.push_back(descend(part, surrogate, std::move(point), watch));
        std::stable_sort(found.begin(), found.end(), [&](const Descent& a, const Descent& b) {
            return isBetter(part, a.point, b.point);
        });
        const auto equal = [](const Descent& a, const Descent& b) {
            return a.point.option == b.point.option;
        };
        found.erase(std::unique(found.begin(), found.end(), equal), found.end());
        if (found.size() > effort * most) found.resize(effort * most);
    }

    // Local optima of a problem, best first, all different; from `share` of the trials.
    std::vector<Descent> explore(const JointProblem& part, const Surrogate& surrogate,
                                 Descent start, const JointRelaxation& relaxation, double share) {
        std::vector<Descent> found{std::move(start)};
        const auto add = [&](std::optional<JointPoint> point) {
            if (point) offer(found, kept, part, surrogate, std::move(*point));
        };
        const Mixture relaxed = mix(part, relaxation);
        const std::size_t steps = std::clamp(part.classes(), fewestSteps, mostSteps);
        const double work = static_cast<double>(steps * part.options.size() * part.width);
        const double affordable =
            std::clamp(trialWork / work, double{fewestTrials}, double{mostTrials});
        const std::size_t trials =
            effort * std::max<std::size_t>(static_cast<std::size_t>(share * affordable), 1);
        add(roundGradually(part, surrogate, relaxed, steps, watch));
        std::vector<double> scaled(part.options.size());
        for (std::size_t trial = 0; trial < trials && !watch.expired(); ++trial) {
            Mixture mixture = relaxed;
            moveTowards(part, mixture, found.front().point.option, 0.9 * random.unit());
            for (std::size_t cls = 0; cls < part.classes(); ++cls) {
                const double factor = exponential(startSpread * (2.0 * random.unit() - 1.0));
                for (std::size_t i = part.offsets[cls]; i < part.offsets[cls + 1]; ++i)
                    scaled[i] = factor * part.squares[i];
            }
            const auto answer = surrogate.minimise(scaled, watch, std::size_t{1} << 16);
            if (answer) moveTowards(part, mixture, answer->option, 0.6 * random.unit());
            add(roundGradually(part, surrogate, std::move(mixture), steps, watch));
        }
        return found;
    }
};

struct Found {
    Descent best;
    JointRelaxation relaxation;
};

// The additive optimum, or what a limit leaves of it.
JointPoint firstPoint(const JointProblem& problem, const Surrogate& surrogate, const Limits& limits,
                      Watch& watch) {
    for (const std::size_t bytes : {std::min(firstBytes, limits.bytes), limits.bytes}) {
        const auto additive = surrogate.minimise(problem.additive, watch, bytes);
        if (additive) return makePoint(problem, additive->option);
    }
    throw std::runtime_error(
        "the limit ended the search before an allocation within all budgets was found; raise "
        "time_limit or memory_limit");
}

Found search(const JointProblem& problem, std::span<const Cost> budgets, const Limits& limits,
             std::size_t effort, Watch& watch) {
    const Surrogate surrogate(problem, budgets, limits);
    Search search{problem, budgets, limits, effort, watch};
    Found found{{firstPoint(problem, surrogate, limits, watch), {}, {}}, {}};

    const std::vector<std::size_t> taken =
        coarsen(problem, found.best.point, effort * coarseOptions);
    const JointProblem coarse = takeOptions(problem, taken);
    const Surrogate coarseSurrogate(coarse, budgets, limits);
    std::vector<std::size_t> option;
    for (const std::size_t chosen : found.best.point.option)
        option.push_back(static_cast<std::size_t>(
            std::lower_bound(taken.begin(), taken.end(), chosen) - taken.begin()));
    const Descent start = descend(coarse, coarseSurrogate, makePoint(coarse, option), watch);
    const JointRelaxation coarseRelaxation =
        relaxJoint(coarse, coarseSurrogate, {toVertex(start.point.option)}, start.point.square,
                   iterations, watch);
    std::vector<Vertex> vertices = coarseRelaxation.vertices;
    for (Vertex& vertex : vertices) {
        for (std::size_t& position : vertex.option) position = taken[position];
        vertex.other = taken[vertex.other];
    }
    found.relaxation =
        relaxJoint(problem, surrogate, vertices, start.point.square, iterations, watch);

    // Where few options were left out, trials among all of them find no other basins.
    const bool again = 2 * taken.size() < problem.options.size();
    const double share = again ? 0.5 : 1.0;
    std::vector<Descent> best;
    const auto offer = [&](JointPoint point) {
        search.offer(best, finalists, problem, surrogate, std::move(point));
    };
    for (Descent& local : search.explore(coarse, coarseSurrogate, start, coarseRelaxation, share)) {
        for (std::size_t& position : local.point.option) position = taken[position];
        offer(makePoint(problem, std::move(local.point.option)));
    }
    if (again && !watch.expired()) {
        // What a narrow problem leaves out adds up with the layers.
        const bool wide = problem.width >= 2 * narrowWidth && problem.classes() <= narrowWidth;
        const std::optional<JointProblem> narrow =
            wide ? narrowed(problem, narrowWidth, search.random, watch) : std::nullopt;
        const JointProblem& all = narrow ? *narrow : problem;
        const Descent from =
            descend(all, surrogate, makePoint(all, best.front().point.option), watch);
        for (Descent& local : search.explore(all, surrogate, from, found.relaxation, share))
            offer(makePoint(problem, std::move(local.point.option)));
    }
    for (Descent& local : best) local = search.polish(surrogate, std::move(local), 0);
    found.best = *std::min_element(best.begin(), best.end(), [&](const auto& a, const auto& b) {
        return isBetter(problem, a.point, b.point);
    });
    const std::size_t kicks = std::max(fewestKicks, kicksPerClass * problem.classes());
    found.best = search.polish(surrogate, std::move(found.best), effort * kicks);
    return found;
}

JointSolution toSolution(const JointProblem& problem, const Descent& best, double bound) {
    JointSolution solution;
    solution.choice = problem.layerChoice(best.point.option);
    solution.distortion = problem.toDistortion(best.point.square);
    solution.lowerBound = std::min(problem.toDistortion(bound), solution.distortion);
    solution.optimal = solution.lowerBound == solution.distortion;
    for (const double multiplier : best.multipliers)
        solution.multipliers.push_back(problem.toDistortion(multiplier));
    return solution;
}

// Puts in what the exact search found, and that it is proved if it is.
JointSolution finish(const JointProblem& problem, Descent best, double bound,
                     const JointExact& exact) {
    best.point = exact.best;
    JointSolution solution = toSolution(problem, best, exact.complete ? exact.best.square : bound);
    solution.states = exact.nodes;
    return solution;
}

}  // namespace

JointSolution searchJoint(const JointInstance& instance, std::span<const Cost> budgets,
                          const Limits& limits, std::size_t effort) {
    if (effort == 0) throw std::invalid_argument("effort must be at least 1");
    Watch watch(limits);
    const JointProblem problem = makeJointProblem(instance, watch);
    const Found found = search(problem, budgets, limits, effort, watch);
    return toSolution(problem, found.best, found.relaxation.bound);
}

JointSolution solveJoint(const JointInstance& instance, std::span<const Cost> budgets,
                         const Limits& limits) {
    Watch watch(limits);
    const JointProblem problem = makeJointProblem(instance, watch);
    const Found found = search(problem, budgets, limits, 1, watch);
    const Surrogate surrogate(problem, budgets, limits);
    return finish(problem, found.best, found.relaxation.bound,
                  provedOptimum(problem, surrogate, budgets, found.best.point, found.relaxation,
                                exactWork, watch));
}

JointSolution solveJointExact(const JointInstance& instance, std::span<const Cost> budgets,
                              const Limits& limits) {
    Watch watch(limits);
    const JointProblem problem = makeJointProblem(instance, watch);
    const Surrogate surrogate(problem, budgets, limits);
    const JointPoint start = firstPoint(problem, surrogate, limits, watch);
    const JointRelaxation relaxation =
        relaxJoint(problem, surrogate, {toVertex(start.option)}, start.square, iterations, watch);
    return finish(problem, descend(problem, surrogate, start, watch), relaxation.bound,
                  provedOptimum(problem, surrogate, budgets, start, relaxation,
                                std::numeric_limits<std::size_t>::max(), watch));
}

}  // namespace rdprune
