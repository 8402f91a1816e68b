// The number types of the core. Costs are counted, distortions are measured, and sums of
// distortions are exact: a Value is a distortion in 128-bit fixed point (see fixed_point.h).
#pragma once

#include <cstdint>
#include <span>

namespace rdprune {

using Cost = std::int64_t;
using Distortion = double;
using Index = std::int64_t;
__extension__ typedef __int128 Value;

// Nearest double but for one unit in the last place; several times faster than the compiler's conversion.
inline double toDouble(Value value) {
    const auto low = static_cast<std::int64_t>(value);
    if (low == value) return static_cast<double>(low);
    return static_cast<double>(static_cast<std::int64_t>(value >> 64)) * 0x1p64 +
           static_cast<double>(static_cast<std::uint64_t>(value));
}

// Largest total of one cost over all layers: leaves room for a sum and a difference of two totals.
inline constexpr Cost maxTotalCost = Cost{1} << 61;

}  // namespace rdprune
