// Seeded random numbers, the same on every machine (the standard library's distributions are not).
//
// Reference: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators (SplitMix64).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rdprune {

class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // Below `count`, which must be positive; the bias of the remainder is far below 2^-40.
    std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }
    // In [0, 1).
    double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

private:
    std::uint64_t state_;
};

}  // namespace rdprune
