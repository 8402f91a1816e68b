// From a final state of a near-optimal search back to the choices it stands for, in lexicographic order.
//
// The ways back form a graph with one layer of nodes a stage. Going through the classes in the table's order,
// the search takes each option that still lies on a whole way, lowest index first, drops what does not
// agree with it, and goes on with the next class; every branch ends in a choice. What a branch drops is
// noted in one place and brought back from there, so that memory grows with the edges only.
//
// O(edges) for each class of each choice, and less the fewer ways are left.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "near_search.h"
#include "watch.h"

namespace rdprune {

// Is given the row of each stage's options that a choice takes.
using FoundChoice = std::function<void(const std::vector<std::size_t>&)>;

// Hands over the lexicographically smallest `most` choices that end in `state` of the search's last list,
// one or more. False if ways beyond four million (fewer, but 65,536 at least, under a memory limit
// below half a gibibyte) were not looked at. Throws LimitReached when the time is up.
[[nodiscard]] bool traceNear(const NearSearch& search, std::size_t state, std::size_t most,
                             Watch& watch, const FoundChoice& found);

}  // namespace rdprune
