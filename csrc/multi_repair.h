// A first allocation within several budgets, found cheaply, for a solve that a limit ends before its
// search has found one.
//
// Multipliers rise until the allocation that minimises the Lagrangian keeps all budgets. If none does, the
// prices of the budgets that are exceeded rise by what exceeds them. In either case options are
// exchanged, one class after the other, as long as that lowers the excess (the sum over the budgets of
// what is beyond each, as a share of it) or, at equal excess, the value. Whether any allocation keeps
// all budgets is as hard to say as which one is best, so none may be found where there is one.
//
// O(options x dimensions) for each of a few hundred passes at most, fewer over very many options.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "problem.h"
#include "watch.h"

namespace rdprune {

// One option a class, by its position in the problem's arrays. Gives the watch's poll its turn, and does
// not mind that the time is up.
[[nodiscard]] std::optional<std::vector<std::size_t>> findWithin(
    const Problem& problem, std::span<const Cost> budgets, const std::vector<double>& multipliers,
    Watch& watch);

}  // namespace rdprune
