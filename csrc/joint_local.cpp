#include "joint_local.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <tuple>

#include "joint_moves.h"

namespace rdprune {

namespace {

constexpr double leastGain = 0x1p-36;  // relative to the square
constexpr std::size_t chains = 96;     // pairs that a third move is looked for
constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

class Search {
public:
    Search(const JointProblem& problem, const GramProblem& gram, const Moves& moves,
           const std::vector<double>& multipliers, Watch& watch)
        : gram_(gram),
          moves_(moves),
          multipliers_(multipliers),
          watch_(watch),
          noise_(problem.rounding(problem.size, problem.size)),
          difference_(gram.size()),
          changes_(gram.size()),
          extra_(gram.size() * gram.dimensions) {}

    // The least gain that is not a rounding error of the updates.
    [[nodiscard]] double threshold(const MoveState& state) const {
        return std::max(leastGain * state.square, noise_);
    }

    // To a point that no move improves.
    void descend(MoveState& state) {
        const std::vector<char> all(state.option.size(), 1);
        do {
            while (improvePairs(state, all)) {
            }
        } while (!watch_.expired() && improveChains(state));
    }

    // By pairs with a class that has moved away from `before`, then with those that the pairs moved.
    void settle(MoveState& state, std::vector<std::size_t> before) {
        std::vector<char> moved(before.size());
        do {
            for (std::size_t cls = 0; cls < before.size(); ++cls)
                moved[cls] = state.option[cls] != before[cls];
            before = state.option;
        } while (improvePairs(state, moved));
    }

private:
    // <d_first, v_i> for all i, where d_first is the change of the response by taking `first`.
    void fillDifference(const MoveState& state, std::size_t first) {
        const double* add = gram_.row(first);
        const double* drop = gram_.row(state.option[gram_.classFor[first]]);
        for (std::size_t i = 0; i < gram_.size(); ++i) difference_[i] = add[i] - drop[i];
    }
    [[nodiscard]] double pairTerm(const MoveState& state, std::size_t second) const {
        return 2.0 * (difference_[second] - difference_[state.option[gram_.classFor[second]]]);
    }
    void fillChanges(const MoveState& state) {
        for (std::size_t i = 0; i < gram_.size(); ++i) {
            changes_[i] = moves_.change(state, i);
            for (std::size_t d = 0; d < gram_.dimensions; ++d)
                extra_[i * gram_.dimensions + d] = moves_.extraCost(state, i, d);
        }
    }
    // Whether the budgets are kept after moves in different classes.
    [[nodiscard]] bool fits(const MoveState& state,
                            std::initializer_list<std::size_t> moves) const {
        for (std::size_t d = 0; d < gram_.dimensions; ++d) {
            Cost left = state.slack[d];
            for (const std::size_t to : moves) left -= extra_[to * gram_.dimensions + d];
            if (left < 0) return false;
        }
        return true;
    }

    // For every first move in the classes to try the best second one in any, taken at once if the
    // two gain; one sweep.
    bool improvePairs(MoveState& state, const std::vector<char>& tried);
    // The best third move to the most promising pairs.
    bool improveChains(MoveState& state);

    const GramProblem& gram_;
    const Moves& moves_;
    const std::vector<double>& multipliers_;
    Watch& watch_;
    double noise_;
    std::vector<double> difference_;
    std::vector<double> changes_;
    std::vector<Cost> extra_;  // T x dimensions
};

bool Search::improvePairs(MoveState& state, const std::vector<char>& tried) {
    bool improved = false;
    fillChanges(state);
    for (std::size_t first = 0; first < gram_.size(); ++first) {
        const std::size_t cls = gram_.classFor[first];
        if (!tried[cls] || state.option[cls] == first) continue;
        double best = -threshold(state);
        std::size_t second = none;
        if (changes_[first] < best && fits(state, {first})) {
            best = changes_[first];
            second = first;
        }
        fillDifference(state, first);
        for (std::size_t other = 0; other < state.option.size(); ++other) {
            if (other == cls || (other < cls && tried[other])) continue;
            const double origin = changes_[first] - 2.0 * difference_[state.option[other]];
            for (std::size_t i = gram_.offsets[other]; i < gram_.offsets[other + 1]; ++i) {
                const double total = origin + changes_[i] + 2.0 * difference_[i];
                if (total < best && fits(state, {first, i})) {
                    best = total;
                    second = i;
                }
            }
        }
        if (second == none) continue;
        moves_.move(state, first);
        if (second != first) moves_.move(state, second);
        fillChanges(state);
        improved = true;
    }
    return improved && !watch_.expired();
}

bool Search::improveChains(MoveState& state) {
    struct Pair {
        double rank;
        double total;
        std::size_t first;
        std::size_t second;
    };
    fillChanges(state);
    std::vector<double> prices(gram_.size());
    for (std::size_t i = 0; i < gram_.size(); ++i)
        prices[i] = moves_.priced(state, i, multipliers_);
    std::vector<Pair> pairs;  // a heap, worst on top
    const auto worse = [](const Pair& a, const Pair& b) {
        return std::tie(a.rank, a.first, a.second) < std::tie(b.rank, b.first, b.second);
    };
    for (std::size_t first = 0; first < gram_.size(); ++first) {
        const std::size_t cls = gram_.classFor[first];
        if (state.option[cls] == first) continue;
        fillDifference(state, first);
        for (std::size_t other = cls + 1; other < state.option.size(); ++other) {
            const double origin = changes_[first] - 2.0 * difference_[state.option[other]];
            for (std::size_t i = gram_.offsets[other]; i < gram_.offsets[other + 1]; ++i) {
                if (i == state.option[other]) continue;
                const double total = origin + changes_[i] + 2.0 * difference_[i];
                const double rank = total + prices[first] + prices[i];
                if (pairs.size() == chains && rank >= pairs.front().rank) continue;
                if (pairs.size() == chains) {
                    std::pop_heap(pairs.begin(), pairs.end(), worse);
                    pairs.pop_back();
                }
                pairs.push_back({rank, total, first, i});
                std::push_heap(pairs.begin(), pairs.end(), worse);
            }
        }
    }
    std::sort_heap(pairs.begin(), pairs.end(), worse);
    double best = -threshold(state);
    std::size_t taken[3] = {none, none, none};
    for (const Pair& pair : pairs) {
        fillDifference(state, pair.first);
        const std::vector<double> firstDifference = difference_;
        fillDifference(state, pair.second);
        for (std::size_t i = 0; i < gram_.size(); ++i) difference_[i] += firstDifference[i];
        for (std::size_t third = 0; third < gram_.size(); ++third) {
            const std::size_t cls = gram_.classFor[third];
            if (cls == gram_.classFor[pair.first] || cls == gram_.classFor[pair.second]) continue;
            const double total = pair.total + changes_[third] + pairTerm(state, third);
            if (total < best && fits(state, {pair.first, pair.second, third})) {
                best = total;
                taken[0] = pair.first;
                taken[1] = pair.second;
                taken[2] = third;
            }
        }
    }
    if (taken[0] == none) return false;
    for (const std::size_t to : taken) moves_.move(state, to);
    return true;
}

}  // namespace

JointPoint searchLocally(const JointProblem& problem, const GramProblem& gram,
                         const JointPoint& start, std::span<const Cost> budgets,
                         const std::vector<double>& multipliers, std::size_t kicks, Random& random,
                         Watch& watch) {
    const Moves moves(gram, budgets);
    Search search(problem, gram, moves, multipliers, watch);
    MoveState best = makeState(problem, gram, start, budgets);
    search.descend(best);
    for (std::size_t kick = 0; kick < kicks && !watch.expired(); ++kick) {
        MoveState state = best;
        const std::size_t jumps = 2 + random.below(3);
        for (std::size_t jump = 0; jump < jumps; ++jump)
            moves.move(state, random.below(gram.size()));
        if (!moves.repair(state)) continue;
        search.settle(state, best.option);
        if (state.square >= best.square - search.threshold(best)) continue;  // `best` itself, often
        search.descend(state);
        best = std::move(state);
    }
    JointPoint found = toPoint(problem, gram, best);
    return isBetter(problem, found, start) ? found : start;
}

}  // namespace rdprune
