// Local search among few options a class, with all their inner products at hand.
//
// A move is O(T) (joint_moves.h), a sweep over all pairs of moves O(T^2): microseconds where the
// responses would take m times as long. The T options are those closest to being taken, by reduced
// cost.
//
// Moves: one class; two classes, typically one that gives cost and one that takes it; three
// classes, built on the best pairs whether or not these keep the budgets. Then seeded kicks: some
// classes jump, budgets are repaired, moves follow, the better point is kept. After a kick only pairs
// with a class that has just moved are tried, and all pairs and three classes only where those have
// brought a better point already: many kicks are worth more.
#pragma once

#include "joint_gram.h"
#include "random.h"
#include "watch.h"

namespace rdprune {

// Searches from a feasible point, all of whose options are in `gram`; the best point found.
[[nodiscard]] JointPoint searchLocally(const JointProblem& problem, const GramProblem& gram,
                                       const JointPoint& start, std::span<const Cost> budgets,
                                       const std::vector<double>& multipliers, std::size_t kicks,
                                       Random& random, Watch& watch);

}  // namespace rdprune
