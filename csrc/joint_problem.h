// The joint objective: choose one option per class so that the sum of the chosen responses is short.
//
//   minimise  F(k) = |e0 + sum_l v_l(k_l)|^2 / m   subject to   sum_l c_l,i(k_l) <= B_i.
//
// v_l(k) in R^m is what option k of layer l, taken alone, does to m numbers of the network's output,
// e0 what was done to them before. Unlike the additive objective this one sees responses that
// cancel, and those that add up to more than their squares. Layers that must take the same option
// are one class; their responses add. No option but a forbidden one is dropped: one that costs more
// and distorts more may still cancel another layer's response.
//
// Sums of squares are kept undivided by m.
#pragma once

#include <span>
#include <vector>

#include "problem.h"
#include "products.h"

namespace rdprune {

struct JointInstance {
    Instance layers;                   // its distortions are only starting points
    std::span<const float> responses;  // options x width
    std::span<const double> offset;    // width
    std::size_t width = 0;             // m
};

struct JointProblem {
    std::size_t dimensions = 1;
    std::size_t samples = 0;            // m
    std::size_t width = 0;              // m, padded with zeros
    std::vector<std::size_t> offsets;   // classes + 1, into the option arrays
    std::vector<Cost> costs;            // options x dimensions
    std::vector<Distortion> additive;   // options; the additive objective's distortions
    std::vector<double> responses;      // options x width
    std::vector<double> squares;        // options; |v|^2
    std::vector<double> own;            // options; what of it the responses leave out: none, or see
                                        // joint_narrow.h
    std::vector<double> offset;         // width
    std::vector<std::size_t> classFor;  // options
    std::vector<Index> options;         // options; index inside the layer
    std::vector<std::size_t> classOf;   // layers
    double size = 0.0;                  // |e0| + sum over classes of the largest |v|

    [[nodiscard]] std::size_t classes() const { return offsets.size() - 1; }
    [[nodiscard]] const double* response(std::size_t option) const {
        return responses.data() + option * width;
    }
    [[nodiscard]] std::vector<Index> layerChoice(const std::vector<std::size_t>& option) const;
    // A sum of squares as the objective's value.
    [[nodiscard]] double toDistortion(double square) const {
        return square / static_cast<double>(samples);
    }
    // Bounds the rounding error of |x|^2 or <x, y> for |x|, |y| up to these lengths.
    [[nodiscard]] double rounding(double length, double other) const;
};

// Throws std::invalid_argument that names the layer, the value and the rule. O(N m). Gives the
// watch's poll its turn.
[[nodiscard]] JointProblem makeJointProblem(const JointInstance& instance, Watch& watch);

// The same problem with some of its options only: positions, ascending, at least one a class.
[[nodiscard]] JointProblem takeOptions(const JointProblem& problem,
                                       const std::vector<std::size_t>& options);

// One option a class, with everything that follows from it.
struct JointPoint {
    std::vector<std::size_t> option;
    std::vector<double> residual;  // e0 + sum v
    double square = 0.0;           // |residual|^2 + sum own
};

// Summed class by class, so equal choices have equal values. O(classes m).
[[nodiscard]] JointPoint makePoint(const JointProblem& problem, std::vector<std::size_t> option);

// Total of every cost.
[[nodiscard]] std::vector<Cost> totalCosts(const JointProblem& problem,
                                           const std::vector<std::size_t>& option);

// The order of preference: less distortion, then less cost, then the smaller choice.
[[nodiscard]] bool isBetter(const JointProblem& problem, const JointPoint& a, const JointPoint& b);

}  // namespace rdprune
