// The exponential function, the same bits on every machine: mathematical libraries differ.
#pragma once

namespace rdprune {

// e to the power x, for |x| of 8 at most, by additions and multiplications alone; to some 1e-14.
inline double exponential(double x) {
    constexpr int halvings = 8;
    constexpr int terms = 7;
    const double small = x * 0x1p-8;
    double term = 1.0;
    double sum = 1.0;
    for (int n = 1; n <= terms; ++n) {
        term *= small / n;
        sum += term;
    }
    for (int n = 0; n < halvings; ++n) sum *= sum;
    return sum;
}

}  // namespace rdprune
