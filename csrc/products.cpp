#include "products.h"

#if __has_include(<features.h>)
#include <features.h>  // tells glibc, whose loader can choose, from musl
#endif

// Compiled for wide registers too; the loader chooses. Not under the thread sanitizer, which cannot
// run before it has chosen.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#define RDPRUNE_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define RDPRUNE_WIDE
#endif

namespace rdprune {

RDPRUNE_WIDE void products(const double* a, const double* rows, std::size_t count,
                           std::size_t length, double* out) {
    for (std::size_t row = 0; row < count; ++row, rows += length) {
        double sum[8] = {};
        for (std::size_t i = 0; i < length; i += 8)
            for (std::size_t j = 0; j < 8; ++j) sum[j] += a[i + j] * rows[i + j];
        out[row] =
            ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    }
}

double dot(const double* a, const double* b, std::size_t length) {
    double product = 0.0;
    products(a, b, 1, length, &product);
    return product;
}

}  // namespace rdprune
