// The number of a given rank among many: quickselect that looks up now and then.
//
// std::nth_element cannot be interrupted, and on ten million numbers takes a tenth of a second. O(n) on
// average. Reference: Hoare, Algorithm 65: Find, CACM 4, 1961; median of three as pivot.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace rdprune {

// Moves numbers that are `wanted` to the front; returns how many. Calls `look` every `block` steps.
template <typename Wanted, typename Look>
std::size_t gather(std::span<double> numbers, std::size_t block, Wanted&& wanted, Look&& look) {
    std::size_t end = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (i % block == block - 1) look();
        const double here = numbers[i];
        numbers[i] = numbers[end];
        numbers[end] = here;
        end += wanted(here) ? 1 : 0;
    }
    return end;
}

// As many numbers as `rank` or more are no larger; puts them into another order. `look` may throw.
template <typename Look>
double ofRank(std::span<double> numbers, std::size_t rank, std::size_t block, Look&& look) {
    while (numbers.size() > block) {
        const double a = numbers.front();
        const double b = numbers[numbers.size() / 2];
        const double c = numbers.back();
        const double pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
        const auto less = [=](double number) { return number < pivot; };
        const std::size_t below = gather(numbers, block, less, look);
        if (rank < below) {
            numbers = numbers.first(below);
            continue;
        }
        numbers = numbers.subspan(below);
        rank -= below;
        const auto same = [=](double number) { return number <= pivot; };
        const std::size_t equal = gather(numbers, block, same, look);
        if (rank < equal) return pivot;
        numbers = numbers.subspan(equal);
        rank -= equal;
    }
    const auto place = numbers.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(numbers.begin(), place, numbers.end());
    return *place;
}

}  // namespace rdprune
