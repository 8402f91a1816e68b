// The multiple-choice knapsack problem (MCKP) in the form that the solvers work on.
//
//   minimise  sum_l d_l(k_l)   subject to   sum_l c_l,i(k_l) <= B_i  for every cost i.
//
// An Instance is what the caller hands over: flat arrays, unchecked. A Problem is checked and
// reduced: layers that must take the same option are merged into one class, options that are not
// allowed or dominated are gone, distortions are fixed-point Values. An option is dominated if
// another one of its class is no worse in every cost and in distortion, and better in one of them
// or equal in all with a lower index; the preferred optimum never contains one.
//
// Reference: Kellerer, Pferschy, Pisinger, Knapsack Problems (2004), section 11.2.
#pragma once

#include <span>
#include <vector>

#include "fixed_point.h"
#include "types.h"
#include "watch.h"

namespace rdprune {

struct Instance {
    std::span<const Cost> costs;              // options x dimensions, option-major
    std::span<const Distortion> distortions;  // options
    std::span<const Index> offsets;           // layers + 1; layer l owns offsets[l]..offsets[l+1]
    std::span<const std::uint8_t> allowed;    // options; zero forbids
    std::span<const Index> groups;            // layers; equal numbers take equal option indices
    std::size_t dimensions = 1;               // costs under a budget
};

struct Problem {
    std::size_t dimensions = 1;
    FixedPoint scale;
    std::vector<std::size_t> offsets;  // classes + 1, into the option arrays
    std::vector<Cost> costs;           // options x dimensions; first cost ascending in a class
    std::vector<Value> values;         // options
    std::vector<Index> options;        // options; index inside the layer
    std::vector<Index> classOf;        // layers

    [[nodiscard]] std::size_t size() const { return offsets.size() - 1; }
    // Least total of cost i over all allocations.
    [[nodiscard]] Cost leastCost(std::size_t dimension) const;
    // One option a class, given by its position in the option arrays, as one option index a layer.
    [[nodiscard]] std::vector<Index> layerChoice(const std::vector<std::size_t>& option) const;
    [[nodiscard]] Value totalValue(const std::vector<std::size_t>& option) const;
    // A bound on the distortions as they are, of a bound on their fixed-point numbers: if these are
    // rounded, a sum is off by up to half a unit a layer.
    [[nodiscard]] Distortion unrounded(Distortion lowerBound) const;
};

// Throws std::invalid_argument that names the layer, the value and the rule.
// O(n log n) for one cost or two, O(n K) at worst for more, with n options, K in the largest layer. Gives the
// watch's poll its turn; when the time is up, dominated options may stay.
[[nodiscard]] Problem makeProblem(const Instance& instance, Watch& watch);

}  // namespace rdprune
