// The same problem with fewer numbers in a response: most of what responses of different layers have
// in common lies in few directions.
//
// With an orthonormal basis of a subspace, <v, w> is the product inside it and the product of what
// lies outside. Outside, responses of different layers are taken for orthogonal: their squares, `own`,
// are added up. (Options of one class are taken so too, and a gradual rounding weighs `own` as it
// does variances: both matter to where trials end, not to how points are judged.) The basis is that
// of random sums of some responses, multiplied once by their second moments: what they share comes
// out first.
//
// Reference: Halko, Martinsson, Tropp 2011, Finding structure with randomness, algorithm 4.4.
#pragma once

#include <optional>

#include "joint_problem.h"
#include "random.h"

namespace rdprune {

// With `width` numbers a response, a multiple of eight; nothing if a limit ends it. The offset lies
// inside. O((N + width) m width).
[[nodiscard]] std::optional<JointProblem> narrowed(const JointProblem& problem, std::size_t width,
                                                   Random& random, Watch& watch);

}  // namespace rdprune
