#include "solver.h"

#include <algorithm>

#include "hull.h"
#include "list_search.h"
#include "multi_budget.h"
#include "single_budget.h"

namespace rdprune {

namespace {

std::vector<Solution> solveFrontier(const Problem& problem, const Relaxation& relaxation,
                                    const std::vector<Cost>& budgets, const Limits& limits,
                                    Watch& watch, Workspace& work) {
    for (const Cost budget : budgets)
        if (relaxation.leastCost > budget) throw InfeasibleBudget({relaxation.leastCost});
    std::vector<Solution> solutions;
    solutions.reserve(budgets.size());
    RelaxationWalk walk(problem, relaxation);
    for (const Cost budget : budgets) {
        solutions.push_back(
            solveSingleBudget(problem, relaxation, walk.solve(budget), limits, work));
        watch.poll();
    }
    return solutions;
}

}  // namespace

std::vector<Solution> solve(const Instance& instance, std::span<const Cost> budgets,
                            const Limits& limits) {
    Watch watch(limits);  // over all; each search has its own
    const Problem problem = makeProblem(instance, watch);
    if (budgets.size() % problem.dimensions != 0)
        throw std::invalid_argument("budgets must have one column per cost");
    for (const Cost budget : budgets)
        if (budget < 0) throw std::invalid_argument("budgets must not be negative");
    std::vector<Solution> solutions;
    solutions.reserve(budgets.size() / problem.dimensions);
    const Limits left{watch.left(), limits.bytes, limits.poll};
    std::vector<Cost> capped(budgets.begin(), budgets.end());
    for (Cost& budget : capped) budget = std::min(budget, maxTotalCost);
    if (problem.dimensions == 1) {
        const Relaxation relaxation = relax(problem);
        Workspace work;
        if (capped.size() == 1)
            solutions.push_back(solveSingleBudget(problem, relaxation, capped.front(), left, work));
        else
            solutions = solveFrontier(problem, relaxation, capped, left, watch, work);
        work.giveBack(watch);
    } else {
        for (std::size_t row = 0; row < capped.size(); row += problem.dimensions) {
            solutions.push_back(solveMultiBudget(
                problem, std::span(capped).subspan(row, problem.dimensions), left));
            watch.poll();
        }
    }
    return solutions;
}

}  // namespace rdprune
