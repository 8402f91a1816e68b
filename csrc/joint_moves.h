// One allocation among few options, and what every move from it would change.
//
// With the Gram matrix a move updates the first-order terms of all T options in O(T); the change that
// any one of them would make is then O(1), and so is that of two together.
#pragma once

#include "joint_gram.h"

namespace rdprune {

// An allocation; budgets need not be kept.
struct MoveState {
    std::vector<std::size_t> option;  // a class, into the GramProblem
    std::vector<Cost> slack;          // budgets left
    std::vector<double> pull;         // T; <residual, v>
    double square = 0.0;
};

[[nodiscard]] MoveState makeState(const JointProblem& problem, const GramProblem& gram,
                                  const JointPoint& point, std::span<const Cost> budgets);

[[nodiscard]] JointPoint toPoint(const JointProblem& problem, const GramProblem& gram,
                                 const MoveState& state);

class Moves {
public:
    Moves(const GramProblem& gram, std::span<const Cost> budgets);

    // Of the square, by taking `to` in its class. O(1).
    [[nodiscard]] double change(const MoveState& state, std::size_t to) const {
        const std::size_t from = state.option[gram_.classFor[to]];
        const double* row = gram_.row(to);
        return 2.0 * (state.pull[to] - state.pull[from]) + row[to] - 2.0 * row[from] +
               gram_.row(from)[from];
    }
    // What `to` costs beyond the present option of its class.
    [[nodiscard]] Cost extraCost(const MoveState& state, std::size_t to, std::size_t d) const {
        const std::size_t from = state.option[gram_.classFor[to]];
        return gram_.costs[to * gram_.dimensions + d] - gram_.costs[from * gram_.dimensions + d];
    }
    // The same at these prices.
    [[nodiscard]] double priced(const MoveState& state, std::size_t to,
                                const std::vector<double>& multipliers) const;

    // A class jumps, whatever it costs. O(T).
    void move(MoveState& state, std::size_t to) const;
    // Takes the moves that lose least for what they give, until the budgets are kept; whether they
    // are.
    [[nodiscard]] bool repair(MoveState& state) const;

private:
    // How far the budgets are exceeded once `to` is taken, as a share of each.
    [[nodiscard]] double excess(const MoveState& state, std::size_t to) const;

    const GramProblem& gram_;
    std::vector<double> weight_;  // of a unit of each cost beyond its budget
};

}  // namespace rdprune
