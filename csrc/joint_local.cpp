#include "joint_local.h"

#include <algorithm>
#include <limits>

namespace rdprune {

namespace {

constexpr double leastGain = 0x1p-36;  // relative to the square
constexpr std::size_t chains = 96;     // pairs that a third move is looked for
constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

struct State {
    std::vector<std::size_t> option;  // a class, into the GramProblem
    std::vector<Cost> slack;          // budgets left
    std::vector<double> pull;         // T; <residual, v>
    double square = 0.0;
};

class Search {
public:
    Search(const JointProblem& problem, const GramProblem& gram,
           const std::vector<double>& multipliers, std::span<const Cost> budgets, Watch& watch)
        : gram_(gram),
          multipliers_(multipliers),
          watch_(watch),
          noise_(problem.rounding(problem.size, problem.size)),
          difference_(gram.size()) {
        for (const Cost budget : budgets)
            weight_.push_back(1.0 / static_cast<double>(std::max<Cost>(budget, 1)));
    }

    // The least gain that is not a rounding error of the updates.
    [[nodiscard]] double threshold(const State& state) const {
        return std::max(leastGain * state.square, noise_);
    }

    void descend(State& state) {
        do {
            while (improvePairs(state)) {
            }
        } while (!watch_.expired() && improveChains(state));
    }

    // A class jumps, whatever it costs.
    void move(State& state, std::size_t to) const {
        const std::size_t cls = gram_.classFor[to];
        const std::size_t from = state.option[cls];
        if (from == to) return;
        state.square += change(state, to);
        const double* add = gram_.row(to);
        const double* drop = gram_.row(from);
        for (std::size_t i = 0; i < gram_.size(); ++i) state.pull[i] += add[i] - drop[i];
        for (std::size_t d = 0; d < gram_.dimensions; ++d)
            state.slack[d] -= extraCost(state, to, d);
        state.option[cls] = to;
    }

    // Takes the moves that lose least for what they give, until the budgets are kept.
    bool repair(State& state) const {
        for (std::size_t steps = 0; steps < 8 * state.option.size(); ++steps) {
            if (excess(state, none) == 0.0) return true;
            const double before = excess(state, none);
            double best = std::numeric_limits<double>::infinity();
            std::size_t taken = none;
            for (std::size_t to = 0; to < gram_.size(); ++to) {
                const double saved = before - excess(state, to);
                if (saved <= 0.0) continue;
                const double loss = change(state, to);
                const double price = loss <= 0.0 ? loss * saved : loss / saved;
                if (price < best) {
                    best = price;
                    taken = to;
                }
            }
            if (taken == none) return false;
            move(state, taken);
        }
        return excess(state, none) == 0.0;
    }

private:
    [[nodiscard]] Cost extraCost(const State& state, std::size_t to, std::size_t d) const {
        const std::size_t from = state.option[gram_.classFor[to]];
        return gram_.costs[to * gram_.dimensions + d] - gram_.costs[from * gram_.dimensions + d];
    }
    [[nodiscard]] double change(const State& state, std::size_t to) const {
        const std::size_t from = state.option[gram_.classFor[to]];
        const double* row = gram_.row(to);
        return 2.0 * (state.pull[to] - state.pull[from]) + row[to] - 2.0 * row[from] +
               gram_.row(from)[from];
    }
    // How far the budgets are exceeded once `to` is taken, as a share of each.
    [[nodiscard]] double excess(const State& state, std::size_t to) const {
        double sum = 0.0;
        for (std::size_t d = 0; d < gram_.dimensions; ++d) {
            const Cost left = state.slack[d] - (to == none ? 0 : extraCost(state, to, d));
            if (left < 0) sum += static_cast<double>(-left) * weight_[d];
        }
        return sum;
    }
    [[nodiscard]] double priced(const State& state, std::size_t to) const {
        double sum = 0.0;
        for (std::size_t d = 0; d < gram_.dimensions; ++d)
            sum += multipliers_[d] * static_cast<double>(extraCost(state, to, d));
        return sum;
    }
    [[nodiscard]] bool fits(const State& state, std::initializer_list<std::size_t> moves) const {
        for (std::size_t d = 0; d < gram_.dimensions; ++d) {
            Cost left = state.slack[d];
            for (const std::size_t to : moves) left -= extraCost(state, to, d);
            if (left < 0) return false;
        }
        return true;
    }
    // <d_first, v_i> for all i, where d_first is the change of the response by taking `first`.
    void fillDifference(const State& state, std::size_t first) {
        const double* add = gram_.row(first);
        const double* drop = gram_.row(state.option[gram_.classFor[first]]);
        for (std::size_t i = 0; i < gram_.size(); ++i) difference_[i] = add[i] - drop[i];
    }
    [[nodiscard]] double pairTerm(const State& state, std::size_t second) const {
        return 2.0 * (difference_[second] - difference_[state.option[gram_.classFor[second]]]);
    }
    void fillChanges(const State& state) {
        changes_.resize(gram_.size());
        for (std::size_t i = 0; i < gram_.size(); ++i) changes_[i] = change(state, i);
    }

    // For every first move the best second one, taken at once if the two gain; one sweep.
    bool improvePairs(State& state);
    // The best third move to the most promising pairs.
    bool improveChains(State& state);

    const GramProblem& gram_;
    const std::vector<double>& multipliers_;
    Watch& watch_;
    double noise_;
    std::vector<double> weight_;  // of a unit of each cost beyond its budget
    std::vector<double> difference_;
    std::vector<double> changes_;
};

bool Search::improvePairs(State& state) {
    bool improved = false;
    fillChanges(state);
    for (std::size_t first = 0; first < gram_.size(); ++first) {
        const std::size_t cls = gram_.classFor[first];
        if (state.option[cls] == first) continue;
        double best = -threshold(state);
        std::size_t second = none;
        if (changes_[first] < best && fits(state, {first})) {
            best = changes_[first];
            second = first;
        }
        fillDifference(state, first);
        for (std::size_t other = cls + 1; other < state.option.size(); ++other) {
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
        move(state, first);
        if (second != first) move(state, second);
        fillChanges(state);
        improved = true;
    }
    return improved && !watch_.expired();
}

bool Search::improveChains(State& state) {
    struct Pair {
        double rank;
        double total;
        std::size_t first;
        std::size_t second;
    };
    fillChanges(state);
    std::vector<double> prices(gram_.size());
    for (std::size_t i = 0; i < gram_.size(); ++i) prices[i] = priced(state, i);
    std::vector<Pair> pairs;  // a heap, worst on top
    const auto worse = [](const Pair& a, const Pair& b) { return a.rank < b.rank; };
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
    for (const std::size_t to : taken) move(state, to);
    return true;
}

State makeState(const JointProblem& problem, const GramProblem& gram, const JointPoint& point,
                std::span<const Cost> budgets) {
    State state;
    state.slack.assign(budgets.begin(), budgets.end());
    state.square = point.square;
    for (const std::size_t chosen : point.option) {
        const auto at = std::lower_bound(gram.source.begin(), gram.source.end(), chosen);
        state.option.push_back(static_cast<std::size_t>(at - gram.source.begin()));
        for (std::size_t d = 0; d < gram.dimensions; ++d)
            state.slack[d] -= problem.costs[chosen * gram.dimensions + d];
    }
    state.pull = gram.linear;
    for (const std::size_t chosen : state.option)
        for (std::size_t i = 0; i < gram.size(); ++i) state.pull[i] += gram.row(chosen)[i];
    return state;
}

JointPoint toPoint(const JointProblem& problem, const GramProblem& gram, const State& state) {
    std::vector<std::size_t> option;
    for (const std::size_t chosen : state.option) option.push_back(gram.source[chosen]);
    return makePoint(problem, std::move(option));
}

}  // namespace

JointPoint searchLocally(const JointProblem& problem, const GramProblem& gram,
                         const JointPoint& start, std::span<const Cost> budgets,
                         const std::vector<double>& multipliers, std::size_t kicks, Random& random,
                         Watch& watch) {
    Search search(problem, gram, multipliers, budgets, watch);
    State best = makeState(problem, gram, start, budgets);
    search.descend(best);
    for (std::size_t kick = 0; kick < kicks && !watch.expired(); ++kick) {
        State state = best;
        const std::size_t jumps = 2 + random.below(3);
        for (std::size_t jump = 0; jump < jumps; ++jump)
            search.move(state, random.below(gram.size()));
        if (!search.repair(state)) continue;
        search.descend(state);
        if (state.square < best.square - search.threshold(best)) best = std::move(state);
    }
    JointPoint found = toPoint(problem, gram, best);
    return isBetter(problem, found, start) ? found : start;
}

}  // namespace rdprune
