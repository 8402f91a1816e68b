#include "numbering.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

namespace rdprune {

namespace {

constexpr std::size_t few = std::size_t{1} << 12;
constexpr std::size_t pollEvery = std::size_t{1} << 16;
constexpr std::size_t wordBits = 64;

}  // namespace

Numbering::Numbering(std::vector<std::size_t> found, std::size_t positions, Watch& watch) {
    if (found.size() < few) {
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        ascending_ = std::move(found);
        return;
    }
    words_.resize(positions / wordBits + 1);
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (i % pollEvery == 0) watch.poll();
        words_[found[i] / wordBits].bits |= std::uint64_t{1} << found[i] % wordBits;
    }
    found.clear();  // what follows takes its place
    for (std::size_t w = 0; w < words_.size(); ++w) {
        if (w % pollEvery == 0) watch.poll();
        words_[w].before = found.size();
        for (std::uint64_t bits = words_[w].bits; bits != 0; bits &= bits - 1)
            found.push_back(w * wordBits + static_cast<std::size_t>(std::countr_zero(bits)));
    }
    ascending_ = std::move(found);
}

std::size_t Numbering::numberOf(std::size_t position) const {
    if (words_.empty()) {
        const auto at = std::lower_bound(ascending_.begin(), ascending_.end(), position);
        assert(at != ascending_.end() && *at == position);
        return static_cast<std::size_t>(at - ascending_.begin());
    }
    const Word& word = words_[position / wordBits];
    const std::uint64_t below = (std::uint64_t{1} << position % wordBits) - 1;
    return word.before + static_cast<std::size_t>(std::popcount(word.bits & below));
}

}  // namespace rdprune
