// Distortions as 128-bit fixed-point numbers.
//
// The objective of an allocation is the sum of one double per layer. Summed in floating point, its
// last bits depend on the order of the layers, so neither "optimal" nor "a tie" would have a
// meaning. A double is an integer times a power of two: with one power for the whole table, sums
// and comparisons are integer arithmetic, exact and the same on every machine.
//
// The power is the largest that represents every distortion exactly, as long as the sum over all
// layers fits into 126 bits. That holds while the largest and the least bit set in the table lie at
// most 123 - log2(layers) places apart (about 18 decimal orders of magnitude between the largest
// and the smallest distortion). Beyond that, distortions are rounded to the nearest multiple of
// 2^-123 of (layers * the largest one), and `exact` is false.
#pragma once

#include <bit>
#include <cstddef>
#include <limits>
#include <span>

#include "types.h"

namespace rdprune {

struct FixedPoint {
    int exponent = 0;   // one unit is 2^exponent
    bool exact = true;  // every distortion of the table is represented without rounding

    // The distortion is finite, and no larger than those that the power was chosen for.
    [[nodiscard]] Value fromDistortion(Distortion distortion) const {
        constexpr int fraction = std::numeric_limits<Distortion>::digits - 1;
        constexpr std::uint64_t one = std::uint64_t{1} << fraction;
        const auto bits = std::bit_cast<std::uint64_t>(distortion);
        const int biased = static_cast<int>(bits >> fraction) & 0x7ff;
        if (biased == 0) return round(distortion);
        const int shift = biased - (1023 + fraction) - exponent;
        if (shift < 0) return round(distortion);
        const Value size = static_cast<Value>((bits & (one - 1)) | one) << shift;
        return (bits >> 63) != 0 ? -size : size;
    }
    [[nodiscard]] Distortion toDistortion(Value value) const;
    // Units of value per unit of cost, as a distortion per unit of cost.
    [[nodiscard]] double toDistortion(double units) const;

private:
    [[nodiscard]] Value round(Distortion distortion) const;
};

// Whether all are numbers; O(n), without a branch for each.
[[nodiscard]] bool allFinite(std::span<const Distortion> distortions);

// The scale for sums of `layers` of these distortions. They must be finite. O(n).
[[nodiscard]] FixedPoint chooseFixedPoint(std::span<const Distortion> distortions,
                                          std::size_t layers);

}  // namespace rdprune
