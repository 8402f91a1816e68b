#include "solver.h"

#include <algorithm>

#include "hull.h"
#include "multi_budget.h"
#include "single_budget.h"

namespace rdprune {

namespace {

std::vector<Solution> solveFrontier(const Problem& problem, const Relaxation& relaxation,
                                    const std::vector<Cost>& budgets, const Limits& limits,
                                    Watch& rows, Workspace& work) {
    for (const Cost budget : budgets)
        if (relaxation.leastCost > budget) throw InfeasibleBudget({relaxation.leastCost});
    std::vector<Solution> solutions;
    solutions.reserve(budgets.size());
    RelaxationWalk walk(problem, relaxation);
    for (const Cost budget : budgets) {
        solutions.push_back(
            solveSingleBudget(problem, relaxation, walk.solve(budget), limits, work));
        rows.poll();
    }
    return solutions;
}

}  // namespace

std::vector<Solution> solve(const Instance& instance, std::span<const Cost> budgets,
                            const Limits& limits) {
    const Problem problem = makeProblem(instance);
    if (budgets.size() % problem.dimensions != 0)
        throw std::invalid_argument("budgets must have one column per cost");
    for (const Cost budget : budgets)
        if (budget < 0) throw std::invalid_argument("budgets must not be negative");
    std::vector<Solution> solutions;
    solutions.reserve(budgets.size() / problem.dimensions);
    Watch rows(limits);  // each search has its own; this one lets an interrupt in between them
    std::vector<Cost> capped(budgets.begin(), budgets.end());
    for (Cost& budget : capped) budget = std::min(budget, maxTotalCost);
    if (problem.dimensions == 1) {
        const Relaxation relaxation = relax(problem);
        Workspace work;
        if (capped.size() == 1)
            solutions.push_back(
                solveSingleBudget(problem, relaxation, capped.front(), limits, work));
        else
            solutions = solveFrontier(problem, relaxation, capped, limits, rows, work);
    } else {
        for (std::size_t row = 0; row < capped.size(); row += problem.dimensions) {
            solutions.push_back(solveMultiBudget(
                problem, std::span(capped).subspan(row, problem.dimensions), limits));
            rows.poll();
        }
    }
    return solutions;
}

}  // namespace rdprune
