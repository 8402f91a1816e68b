#include "joint_moves.h"

#include <algorithm>
#include <limits>

namespace rdprune {

namespace {

constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

}  // namespace

MoveState makeState(const JointProblem& problem, const GramProblem& gram, const JointPoint& point,
                    std::span<const Cost> budgets) {
    MoveState state;
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

JointPoint toPoint(const JointProblem& problem, const GramProblem& gram, const MoveState& state) {
    std::vector<std::size_t> option;
    for (const std::size_t chosen : state.option) option.push_back(gram.source[chosen]);
    return makePoint(problem, std::move(option));
}

Moves::Moves(const GramProblem& gram, std::span<const Cost> budgets) : gram_(gram) {
    for (const Cost budget : budgets)
        weight_.push_back(1.0 / static_cast<double>(std::max<Cost>(budget, 1)));
}

double Moves::priced(const MoveState& state, std::size_t to,
                     const std::vector<double>& multipliers) const {
    double sum = 0.0;
    for (std::size_t d = 0; d < gram_.dimensions; ++d)
        sum += multipliers[d] * static_cast<double>(extraCost(state, to, d));
    return sum;
}

void Moves::move(MoveState& state, std::size_t to) const {
    const std::size_t cls = gram_.classFor[to];
    const std::size_t from = state.option[cls];
    if (from == to) return;
    state.square += change(state, to);
    const double* add = gram_.row(to);
    const double* drop = gram_.row(from);
    for (std::size_t i = 0; i < gram_.size(); ++i) state.pull[i] += add[i] - drop[i];
    for (std::size_t d = 0; d < gram_.dimensions; ++d) state.slack[d] -= extraCost(state, to, d);
    state.option[cls] = to;
}

bool Moves::repair(MoveState& state) const {
    for (std::size_t steps = 0; steps < 8 * state.option.size(); ++steps) {
        const double before = excess(state, none);
        if (before == 0.0) return true;
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

double Moves::excess(const MoveState& state, std::size_t to) const {
    double sum = 0.0;
    for (std::size_t d = 0; d < gram_.dimensions; ++d) {
        const Cost left = state.slack[d] - (to == none ? 0 : extraCost(state, to, d));
        if (left < 0) sum += static_cast<double>(-left) * weight_[d];
    }
    return sum;
}

}  // namespace rdprune
