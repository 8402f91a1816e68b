// Some of many positions, numbered in ascending order.
//
// Ways back (trace_back.h, near_trace.h) find the states before a stage in any order and many times over;
// this makes nodes of them. O(n log n) for few, O(n + positions / 64) for many, where sorting would take
// longer than an interrupt may wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "watch.h"

namespace rdprune {

class Numbering {
public:
    // All of `found` lie below `positions`; they may repeat. Gives the watch's poll its turn.
    Numbering(std::vector<std::size_t> found, std::size_t positions, Watch& watch);

    // Where one of them stands among the different ones.
    [[nodiscard]] std::size_t numberOf(std::size_t position) const;
    // The different ones, which are given away.
    [[nodiscard]] std::vector<std::size_t> ascending() && { return std::move(ascending_); }

private:
    struct Word {
        std::uint64_t bits = 0;  // of 64 positions, those that were found
        std::size_t before = 0;  // found in earlier words
    };
    std::vector<std::size_t> ascending_;
    std::vector<Word> words_;  // empty if they are few
};

}  // namespace rdprune
