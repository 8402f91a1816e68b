// From a final state of a near-optimal search back to the choices it stands for, in lexicographic order.
//
// The ways back form a graph with one layer of nodes a stage. Going through the classes in the table's order,
// the search takes each option that still lies on a whole way, lowest index first, drops what does not
// agree with it, and goes on with the next class; every branch ends in a choice.
//
// O(edges) for each class of each choice, and less the fewer ways are left.
#pragma once

#include <cstddef>
#include <vector>

#include "near_search.h"

namespace rdprune {

struct NearTrace {
    std::vector<std::vector<std::size_t>> taken;  // one row of a stage's options for each choice
    bool whole = true;  // else ways beyond four million were not looked at
};

// The lexicographically smallest `most` choices that end in `state` of the search's last list.
[[nodiscard]] NearTrace traceNear(const NearSearch& search, std::size_t state, std::size_t most,
                                  Watch& watch);

}  // namespace rdprune
