// What of an instance stays the same when only its distortions change: checked costs, classes of tied
// layers, allowed options in order of cost. Made once for a batch of instances (batch.h), once a call
// otherwise.
#pragma once

#include <span>
#include <vector>

#include "problem.h"
#include "watch.h"

namespace rdprune {

class Layout {
public:
    // Looks at everything but the distortions. Throws std::invalid_argument that names the layer,
    // the value and the rule. O(n log n) with n options. Gives the watch's poll its turn.
    Layout(const Instance& instance, Watch& watch);

    // The problem with these distortions, one an option of the instance; throws if one is not finite.
    // Without dominated options O(n) for one cost, O(n log n) for two, O(n K) at worst for more, with K
    // in the largest layer; when the time is up, dominated options of several costs stay. With
    // them a class may hold several options of equal costs.
    [[nodiscard]] Problem problem(std::span<const Distortion> distortions, Watch& watch,
                                  bool withDominated = false) const;

private:
    void collectClasses(const Instance& instance);
    bool appendInOrder(const Instance& instance, std::size_t layer);
    void append(const Instance& instance, std::span<const std::size_t> layers, Pace& pace);
    [[nodiscard]] std::span<const std::size_t> layersOf(std::size_t cls) const;
    std::size_t appendStairs(Problem& problem, std::size_t cls, std::size_t end,
                             std::span<const Distortion> distortions) const;
    void appendPreferred(Problem& problem, std::span<const Value> values, std::size_t first,
                         std::size_t last, Pace& pace) const;

    std::size_t dimensions_;
    std::vector<Index> layerOffsets_;       // as the instance's offsets
    std::vector<Index> classOf_;            // layers
    std::vector<std::size_t> layers_;       // class after class
    std::vector<std::size_t> classLayers_;  // classes + 1, into layers_
    std::vector<std::size_t> offsets_{0};   // classes + 1, into rows
    std::vector<Cost> costs_;               // rows x dimensions, ascending in a class
    std::vector<Index> options_;            // rows; index inside the layer
};

}  // namespace rdprune
