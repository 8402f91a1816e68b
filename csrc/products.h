// Sums of products, for lengths that are multiples of eight.
//
// Each runs over eight interleaved partial sums in a fixed order, so results are the same on every
// machine with IEEE doubles, whether it works on one number at a time or on several.
#pragma once

#include <cstddef>

namespace rdprune {

// <a, b>.
[[nodiscard]] double dot(const double* a, const double* b, std::size_t length);

// <a, row> for each of `count` rows, one after the other in memory.
void products(const double* a, const double* rows, std::size_t count, std::size_t length,
              double* out);

}  // namespace rdprune
