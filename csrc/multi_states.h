// Lists of states with vectors of costs, for the search under several budgets (multi_search.h).
//
// They grow in place, without being cleared, and are given back piece by piece with a look at the watch
// in between: a list may hold most of the memory there is, and to copy or to free that much at once
// takes a third of a second.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "buffer.h"
#include "stairs.h"
#include "types.h"
#include "watch.h"

namespace rdprune {

inline constexpr std::size_t dominanceWindow = 256;  // kept states that a new one is compared with

// Rows ascend, except in a list under way.
struct States {
    std::span<const Cost> cost;  // states x dimensions
    std::span<const Value> value;

    [[nodiscard]] std::size_t size() const { return value.size(); }
    [[nodiscard]] std::span<const Cost> row(std::size_t state, std::size_t dimensions) const {
        return cost.subspan(state * dimensions, dimensions);
    }
};

class Growing {
public:
    explicit Growing(std::size_t dimensions) : dimensions_(dimensions) {}

    void append(const Cost* cost, Value value) {
        cost_.reserve((size_ + 1) * dimensions_);
        value_.reserve(size_ + 1);
        std::copy_n(cost, dimensions_, cost_.data() + size_ * dimensions_);
        value_[size_++] = value;
    }
    void clear() { size_ = 0; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] States from(std::size_t first, std::size_t last) const {
        return {{cost_.data() + first * dimensions_, (last - first) * dimensions_},
                {value_.data() + first, last - first}};
    }
    void giveBack(Watch& watch) {
        cost_.giveBack(watch);
        value_.giveBack(watch);
    }

private:
    std::size_t dimensions_;
    Buffer<Cost> cost_;
    Buffer<Value> value_;
    std::size_t size_ = 0;
};

// The lists of all stages, one after the other.
struct Lists {
    explicit Lists(std::size_t dimensions) : states(dimensions) {}

    void close() { starts.push_back(states.size()); }
    [[nodiscard]] States operator[](std::size_t list) const {
        return states.from(starts[list], starts[list + 1]);
    }
    [[nodiscard]] States back() const { return (*this)[starts.size() - 2]; }

    Growing states;
    std::vector<std::size_t> starts{0};
};

// What one stage makes of the list before it; memory that the next stage uses again.
struct Scratch {
    explicit Scratch(std::size_t dimensions) : states(dimensions) {}

    void giveBack(Watch& watch) {
        states.giveBack(watch);
        gaps.giveBack(watch);
        order.giveBack(watch);
    }

    Growing states;
    Buffer<double> gaps;
    Buffer<std::size_t> order;
    std::size_t most = 0;  // states written
};

// Decides whether a state is dominated by the ones before it, which have no larger first cost.
class Dominance {
public:
    explicit Dominance(std::size_t dimensions) : dimensions_(dimensions) {}

    bool dominated(const States& kept, std::span<const Cost> cost, Value value) {
        if (dimensions_ == 2) return stairs_.dominated(cost[1], value);
        const std::size_t first = kept.size() > dominanceWindow ? kept.size() - dominanceWindow : 0;
        for (std::size_t s = kept.size(); s-- > first;) {
            if (kept.value[s] > value) continue;
            const auto other = kept.row(s, dimensions_);
            bool noWorse = true;
            for (std::size_t d = 0; d < dimensions_ && noWorse; ++d) noWorse = other[d] <= cost[d];
            if (noWorse) return true;
        }
        return false;
    }

private:
    std::size_t dimensions_;
    Stairs stairs_;
};

}  // namespace rdprune
