#include "fixed_point.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace rdprune {

namespace {

constexpr int mantissaBits = std::numeric_limits<Distortion>::digits;
constexpr int valueBits = 123;
constexpr int exponentBias = 1023 + mantissaBits - 1;

// A finite double other than zero as mantissa * 2^exponent.
struct Parts {
    std::int64_t mantissa;
    int exponent;
};

Parts split(Distortion distortion) {
    const auto bits = std::bit_cast<std::uint64_t>(distortion);
    const int biased = static_cast<int>(bits >> (mantissaBits - 1)) & 0x7ff;
    auto mantissa =
        static_cast<std::int64_t>(bits & ((std::uint64_t{1} << (mantissaBits - 1)) - 1));
    if (biased > 0) mantissa |= std::int64_t{1} << (mantissaBits - 1);
    return {std::signbit(distortion) ? -mantissa : mantissa, std::max(biased, 1) - exponentBias};
}

int bitWidth(std::size_t count) { return static_cast<int>(std::bit_width(count)); }

}  // namespace

bool allFinite(std::span<const Distortion> distortions) {
    constexpr std::uint64_t exponent = std::uint64_t{0x7ff} << (mantissaBits - 1);
    std::uint64_t most = 0;
    for (const Distortion distortion : distortions)
        most = std::max(most, std::bit_cast<std::uint64_t>(distortion) & exponent);
    return most != exponent;
}

FixedPoint chooseFixedPoint(std::span<const Distortion> distortions, std::size_t layers) {
    int most = 0;                                 // exponent fields
    int least = std::numeric_limits<int>::max();  // those below it may have lower bits
    int lowest = std::numeric_limits<int>::max();
    for (const Distortion distortion : distortions) {
        const auto bits = std::bit_cast<std::uint64_t>(distortion) << 1;
        const int field = static_cast<int>(bits >> mantissaBits);
        most = std::max(most, field);
        if (field >= least || bits == 0) continue;  // hardly ever goes on
        const Parts parts = split(distortion);
        const int zeros = std::countr_zero(static_cast<std::uint64_t>(parts.mantissa));
        lowest = std::min(lowest, parts.exponent + zeros);
        least = lowest + exponentBias;
    }
    if (lowest == std::numeric_limits<int>::max()) return {};
    const int highest = std::max(most, 1) - exponentBias + mantissaBits;
    const int finest = highest + bitWidth(layers) - valueBits;
    return {std::max(lowest, finest), lowest >= finest};
}

Value FixedPoint::round(Distortion distortion) const {
    if (distortion == 0.0) return 0;
    const Parts parts = split(distortion);
    const int shift = parts.exponent - exponent;
    if (shift >= 0) return static_cast<Value>(parts.mantissa) * (static_cast<Value>(1) << shift);
    if (shift <= -mantissaBits - 2) return 0;
    return static_cast<Value>(std::llround(std::ldexp(static_cast<double>(parts.mantissa), shift)));
}

Distortion FixedPoint::toDistortion(Value value) const {
    return std::ldexp(static_cast<double>(value), exponent);
}

double FixedPoint::toDistortion(double units) const { return std::ldexp(units, exponent); }

}  // namespace rdprune
