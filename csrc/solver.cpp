#include "solver.h"

#include <algorithm>

#include "hull.h"
#include "single_budget.h"

namespace rdprune {

std::vector<Solution> solve(const Instance& instance, std::span<const Cost> budgets,
                            const Limits& limits) {
    const Problem problem = makeProblem(instance);
    if (budgets.size() % problem.dimensions != 0)
        throw std::invalid_argument("budgets must have one column per cost");
    for (const Cost budget : budgets)
        if (budget < 0) throw std::invalid_argument("budgets must not be negative");
    std::vector<Solution> solutions;
    solutions.reserve(budgets.size() / problem.dimensions);
    const Relaxation relaxation = relax(problem);
    for (const Cost budget : budgets)
        solutions.push_back(solveSingleBudget(problem, relaxation,
                                              std::min(budget, maxTotalCost), limits));
    return solutions;
}

}  // namespace rdprune
