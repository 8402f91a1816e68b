#include "problem.h"

#include <algorithm>
#include <cmath>

#include "layout.h"

namespace rdprune {

Cost Problem::leastCost(std::size_t dimension) const {
    Cost total = 0;
    for (std::size_t c = 0; c < size(); ++c) {
        Cost least = costs[offsets[c] * dimensions + dimension];
        for (std::size_t option = offsets[c]; option < offsets[c + 1]; ++option)
            least = std::min(least, costs[option * dimensions + dimension]);
        total += least;
    }
    return total;
}

std::vector<Index> Problem::layerChoice(const std::vector<std::size_t>& option) const {
    std::vector<Index> choice(classOf.size());
    for (std::size_t layer = 0; layer < choice.size(); ++layer)
        choice[layer] = options[option[static_cast<std::size_t>(classOf[layer])]];
    return choice;
}

Value Problem::totalValue(const std::vector<std::size_t>& option) const {
    Value total = 0;
    for (const std::size_t chosen : option) total += values[chosen];
    return total;
}

Distortion Problem::unrounded(Distortion lowerBound) const {
    if (scale.exact) return lowerBound;
    const double unit = scale.toDistortion(1.0);
    const double most = unit * static_cast<double>(classOf.size());
    return lowerBound - most - 0x1p-51 * std::abs(lowerBound);
}

Problem makeProblem(const Instance& instance, Watch& watch) {
    return Layout(instance, watch).problem(instance.distortions, watch);
}

}  // namespace rdprune
