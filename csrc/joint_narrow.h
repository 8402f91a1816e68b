// The same problem with fewer numbers in a response: most of what responses of different layers have
// in common lies in few directions.
//
// With an orthonormal basis of a subspace, <v, w> is the product inside it and the product of what
// lies outside. Outside, responses of different layers are taken for orthogonal: their squares, `own`,
// are added up. The basis is that of random sums of responses, multiplied once by the responses'
// second moments: what they share comes out first.
//
// Reference: Halko, Martinsson, Tropp 2011, Finding structure with randomness, algorithm 4.4.
#pragma once

#include "joint_problem.h"
#include "random.h"

namespace rdprune {

// At most `width` numbers a response, a multiple of eight. The offset lies inside. O(N m width).
[[nodiscard]] JointProblem narrowed(const JointProblem& problem, std::size_t width, Random& random);

}  // namespace rdprune
