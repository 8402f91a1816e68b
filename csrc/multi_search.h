// Exact search for several budgets: dynamic programming over lists of states with vectors of costs.
//
// The single-budget search (list_search.h) with more costs. Everything is counted from the
// allocation that minimises the Lagrangian; r >= 0 is an option's reduced cost there,
// value + lambda . cost, and
//     value(x) = bound + sum r + sum_i lambda_i (B_i - cost_i(x)).
// A state is dropped if another one is no worse in every cost and in value, if the least that the
// classes to come can cost breaks a budget, or if its sum of r plus, for the worst budget i,
// the linear relaxation of the classes to come under budget i alone,
//     min sum r + lambda_i (left_i - cost_i)   subject to   cost_i <= left_i,
// exceeds the gap that is looked through. Rounding is dealt with as there, but the relaxations
// are running sums of doubles here: the margin is 2^-49 of the largest sums for each option of the problem.
//
// Dominance is exact for two costs (a staircase); for more, a state is compared with the 256 before it
// in order of costs, which costs time and never exactness.
// References: Dyer, Riha, Walker 1995, A hybrid dynamic programming/branch-and-bound algorithm for
// the multiple-choice knapsack problem; Kellerer, Pferschy, Pisinger 2004, chapter 9.
#pragma once

#include <vector>

#include "problem.h"
#include "watch.h"

namespace rdprune {

struct MultiSearch {
    enum class Outcome { found, nothing, limit };
    Outcome outcome = Outcome::nothing;
    bool cut = false;                 // a state or option was dropped for its value
    std::vector<std::size_t> option;  // a class, into the problem's arrays; if found
    Value value = 0;                  // total; if found
    double gap = 0.0;                 // value - bound; if found
    std::size_t states = 0;
};

// Where the search counts from.
struct LagrangianBase {
    std::vector<double> multipliers;
    std::vector<std::size_t> option;
    std::vector<Cost> slack;  // budgets - costs of the base; may be negative
    Value value = 0;          // total of the base
    double bound = 0.0;       // value + lambda . cost - lambda . budgets, relative to value
};

// Searches for the best allocation within `gap` of the bound. `beam` as in list_search.h.
[[nodiscard]] MultiSearch searchVectors(const Problem& problem, const LagrangianBase& base,
                                        double gap, std::size_t beam, Watch& watch);

}  // namespace rdprune
