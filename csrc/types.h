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

// Largest total of one cost over all layers: leaves room for a sum and a difference of two totals.
inline constexpr Cost maxTotalCost = Cost{1} << 61;

}  // namespace rdprune
