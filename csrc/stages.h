// What a list search works on: the options that may still be in an allocation below the target, in the
// order in which their classes are taken up, and the linear relaxation of the classes to come.
//
// Everything is counted from the relaxation's base allocation (hull.h). The reduced cost of an option,
// r = value + lambda cost - (that of the base's option) >= 0, is computed once a budget: an allocation
// that takes the option is worth at least bound + r, bound = -lambda slack.
//
// Rounding. r is off by a few units in the last place of the class's largest |value| + lambda |cost|, and
// options are dropped only beyond the gap plus 2^-44 of that.
//
// O(options) to price, O(classes + options of undecided classes + n log n) to collect n of them.
// References: Dyer, Kayal, Walker 1984; Kellerer, Pferschy, Pisinger 2004, section 11.2.
#pragma once

#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "hull.h"
#include "types.h"

namespace rdprune {

inline constexpr double relativeMargin = 0x1p-44;

// Reduced costs of all options, for one multiplier.
struct Prices {
    std::vector<double> reduced;  // options
    std::vector<double> nearest;  // classes; least of the options that are not the base's
    std::vector<double> margin;   // classes; beyond the gap, for rounding
    // What the base may lack to the least Lagrangian value: gains that are lost in the rounding of a
    // class's hull, and what reduced costs below zero show.
    double shortfall = 0.0;
    std::vector<double> sorted;  // scratch

    void compute(const Problem& problem, const Relaxation& relaxation, const Base& base);
    // The gap to the bound within which this many classes have an option besides the base's.
    [[nodiscard]] double undecidedGap(std::size_t undecided);
};

// Options within a gap, class after class; memory is kept from one search to the next.
class Stages {
public:
    struct Stage {
        std::size_t cls;
        std::size_t first;  // into the option arrays below
        std::size_t count;
    };
    // A point of the relaxation: least value for a cost left.
    struct Knot {
        Cost cost;
        double value;
        double efficiency;  // towards the next knot
        Value total;        // the value of an allocation of that cost, exactly
    };

    // Options with r <= gap, widest range of costs first; classes with nothing but the base's option are left out.
    void collect(const Problem& problem, const Base& base, const Prices& prices, double gap);

    [[nodiscard]] std::size_t size() const { return stages_.size(); }
    [[nodiscard]] const Stage& operator[](std::size_t t) const { return stages_[t]; }
    [[nodiscard]] std::size_t mostOptions() const { return mostOptions_; }
    // Sum over classes of max(|value| + lambda |cost|).
    [[nodiscard]] double scale() const { return scale_; }

    // The relaxation of the stages after `stage`, as knots of ascending cost that cover [low, high] as far
    // as the segments reach.
    [[nodiscard]] std::span<const Knot> relaxAfter(std::size_t stage, Cost low, Cost high);
    // Writes the options of a knot's allocation, for the stages after `stage`.
    void complete(std::size_t stage, Cost knot, std::vector<std::size_t>& option) const;

    std::vector<std::uint32_t> option;  // positions in the problem's arrays
    std::vector<Cost> cost;             // relative to the base, ascending in a stage
    std::vector<Value> value;
    std::vector<double> reduced;
    std::vector<Index> index;

private:
    struct Range {
        Cost span;
        std::uint32_t cls, first, last;
    };
    struct Slope {  // a hull segment: more cost, less value
        Cost cost;
        Value value;
        double efficiency;
        std::uint32_t stage;
        std::uint32_t option;  // at the far end, seen from the base
    };
    void collectOptions(const Problem& problem, const Prices& prices, double gap);
    void collectSlopes();
    using Key = std::pair<double, std::uint32_t>;  // efficiency, and place among the slopes
    static void sortSlopes(const std::vector<Slope>& slopes, double sign, std::vector<Key>& order);

    std::vector<Stage> stages_;
    std::vector<Range> ranges_;
    std::vector<std::uint32_t> found_;
    std::vector<Slope> right_;     // more cost than the base, less value; flattening
    std::vector<Slope> left_;      // less cost, more value; steepening
    std::vector<Key> rightOrder_;  // nearest to the base first
    std::vector<Key> leftOrder_;
    std::vector<Segment> segments_;
    std::vector<Knot> knots_;
    std::size_t mostOptions_ = 1;
    double scale_ = 0.0;
};

}  // namespace rdprune
