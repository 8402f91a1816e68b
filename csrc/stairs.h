// Dominance of pairs of numbers that come in ascending order of a third one.
//
// Stairs hold the pairs that no other one dominates, the first number ascending and the second one strictly
// descending. O(log n) for each pair on average. Reference: Kung, Luccio, Preparata, On finding the maxima of a
// set of vectors, JACM 22, 1975.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>

#include "types.h"

namespace rdprune {

class Stairs {
public:
    static constexpr std::size_t stepBytes = 80;  // of a node of std::map

    // Whether a pair that came before is no larger in both; if none is, this one comes in.
    bool dominated(Cost cost, Value value) {
        const auto next = stairs_.upper_bound(cost);
        if (next != stairs_.begin() && std::prev(next)->second <= value) return true;
        auto from = stairs_.lower_bound(cost);
        while (from != stairs_.end() && from->second >= value) from = stairs_.erase(from);
        stairs_.emplace_hint(from, cost, value);
        return false;
    }

private:
    std::map<Cost, Value> stairs_;
};

}  // namespace rdprune
