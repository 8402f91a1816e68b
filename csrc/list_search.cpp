#include "list_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "select.h"

namespace rdprune {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

constexpr std::size_t blockSteps = std::size_t{1} << 16;  // between two looks at the limits
constexpr std::size_t stageSteps = std::size_t{1} << 10;  // that a stage costs besides its states

// Merges two lists, dropping what is dominated. Without branches but for the loop's: which of two states
// comes next is anybody's guess.
class Merge {
public:
    Merge(const StateList& a, const StateList& b, StateList& out) : a_(a), b_(b), out_(out) {
        out.reserve(a.size + b.size);
    }

    // So many steps at most; false once all is done.
    bool step(std::size_t most) {
        Cost* const costs = out_.cost.data();
        Value* const values = out_.value.data();
        const Cost* const aCost = a_.cost.data();
        const Cost* const bCost = b_.cost.data();
        const Value* const aValue = a_.value.data();
        const Value* const bValue = b_.value.data();
        Cost lastCost = lastCost_;
        Value lastValue = lastValue_;
        std::size_t n = size_;
        const auto push = [&](Cost cost, Value value) {
            const bool keep = value < lastValue;
            n -= (keep && cost == lastCost) ? 1 : 0;
            costs[n] = cost;
            values[n] = value;
            n += keep ? 1 : 0;
            lastCost = keep ? cost : lastCost;
            lastValue = keep ? value : lastValue;
        };
        std::size_t i = i_;
        std::size_t j = j_;
        // None of so many steps reaches beyond the end of a list.
        const std::size_t both = std::min({a_.size - i, b_.size - j, most});
        for (std::size_t s = 0; s < both; ++s) {
            const bool left = aCost[i] <= bCost[j];
            const Value* const value = left ? aValue + i : bValue + j;
            push(left ? aCost[i] : bCost[j], *value);
            i += left ? 1 : 0;
            j += left ? 0 : 1;
        }
        if (i == a_.size)
            for (const std::size_t end = std::min(b_.size, j + most); j < end; ++j)
                push(bCost[j], bValue[j]);
        else if (j == b_.size)
            for (const std::size_t end = std::min(a_.size, i + most); i < end; ++i)
                push(aCost[i], aValue[i]);
        i_ = i;
        j_ = j;
        lastCost_ = lastCost;
        lastValue_ = lastValue;
        out_.size = size_ = n;
        return i < a_.size || j < b_.size;
    }

private:
    const StateList& a_;
    const StateList& b_;
    StateList& out_;
    std::size_t i_ = 0;
    std::size_t j_ = 0;
    std::size_t size_ = 0;
    Cost lastCost_ = std::numeric_limits<Cost>::min();
    Value lastValue_ = ~(static_cast<Value>(1) << 127);  // the largest
};

// An allocation: a state after a stage, and a knot of the relaxation of the stages to come.
struct Known {
    std::size_t stage = 0;
    Cost cost = 0;
    Value value = 0;
    Cost knot = 0;
    bool any = false;
};

class Search {
public:
    Search(const Problem& problem, const Base& base, Value target, Value known, Workspace& work,
           Watch& watch)
        : base_(base), work_(work), watch_(watch), target_(target), best_(known) {
        const double loss = base.multiplier * static_cast<double>(base.slack);
        // Never negative but for rounding, which must not cut the base itself. The loss may dwarf the
        // gap and all options of a class, and so may its rounding error.
        work.stages.collect(
            problem, base, work.prices,
            std::max(toDouble(target) + loss, 0.0) + relativeMargin * loss + work.prices.shortfall);
        margin_ = relativeMargin * (work.stages.scale() + loss);
        bound_ = -loss - work.prices.shortfall;
        work.pool.resize(std::max(work.pool.size(),
                                  std::size_t{2} * std::bit_width(work.stages.mostOptions()) + 2));
    }

    ListSearch run(const Effort& effort) {
        work_.states.reserve(1);
        work_.states.size = 1;
        work_.states.cost[0] = 0;
        work_.states.value[0] = 0;
        work_.reduced.assign(1, 0.0);
        work_.bounds.assign(1, bound_);
        work_.lists.assign(1, 0);
        work_.merged.peak = 0;
        for (StateList& list : work_.pool) list.peak = 0;
        leastBound_ = bound_;
        bool thinned = false;
        try {
            watch_.check();
            for (std::size_t t = 0; t < work_.stages.size(); ++t) {
                pause(stageSteps);
                if (work_.states.size > effort.states) return stopped(thinned);
                const std::size_t first = work_.lists.back();
                collectActive(work_.stages[t]);
                extend(first, 0, work_.active.size(), 0, work_.merged);
                work_.lists.push_back(work_.states.size);
                keepPromising(t);
                thinned = keepBest(effort.beam) || thinned;
                if (work_.states.size == work_.lists.back()) break;
            }
        } catch (const LimitReached&) {
            return stopped(thinned);
        }
        return thinned ? stopped(true) : finished();
    }

private:
    // The options of a stage that the target, lower than it was at first, has left.
    void collectActive(const Stages::Stage& stage) {
        const double most = toDouble(target_) - bound_ + margin_;
        work_.active.clear();
        for (std::size_t i = stage.first; i < stage.first + stage.count; ++i)
            if (work_.stages.reduced[i] <= most) work_.active.push_back(i);
    }

    // The list from state `list` on, extended by active options begin, ..., begin + count - 1, by
    // halves. `pool` holds two lists for each level.
    void extend(std::size_t list, std::size_t begin, std::size_t count, std::size_t level,
                StateList& out) {
        if (count == 1) {
            extendBy(list, work_.active[begin], out);
            return;
        }
        StateList& left = work_.pool[2 * level];
        StateList& right = work_.pool[2 * level + 1];
        extend(list, begin, count / 2, level + 1, left);
        extend(list, begin + count / 2, count - count / 2, level + 1, right);
        const std::size_t peak = out.peak;
        hold(out, left.size + right.size);
        Merge merge(left, right, out);
        while (merge.step(blockSteps)) watch_.check();
        pause(out.size);
        const std::size_t written = std::max(peak, out.size);
        held_ -= (out.peak - written) * stateBytes;
        out.peak = written;
    }

    // Counts what a list is about to grow to.
    void hold(StateList& list, std::size_t size) {
        if (size > list.peak) {
            held_ += (size - list.peak) * stateBytes;
            list.peak = size;
        }
        require(0);
    }

    // Throws if lists, and so many bytes more, are beyond the limit.
    void require(std::size_t bytes) {
        const std::size_t all =
            held_ + work_.states.size * stateBytes + work_.bounds.size() * listBytes + bytes;
        work_.held = std::max(work_.held, all);
        exhausted_ = all > watch_.bytes();
        if (exhausted_) throw LimitReached{};
    }

    // Looks at the clock after many steps.
    void pause(std::size_t steps) {
        steps_ += steps;
        if (steps_ < blockSteps) return;
        steps_ = 0;
        watch_.check();
    }

    // By one option, leaving out what its reduced cost alone makes hopeless.
    void extendBy(std::size_t list, std::size_t option, StateList& out) {
        const std::size_t size = work_.states.size - list;
        hold(out, size);
        out.reserve(size);
        const Cost cost = work_.stages.cost[option];
        const Value value = work_.stages.value[option];
        const double most = toDouble(target_) - bound_ + margin_ - work_.stages.reduced[option];
        const Cost* const costs = work_.states.cost.data() + list;
        const Value* const values = work_.states.value.data() + list;
        const double* const reduced = work_.reduced.data();
        Cost* const outCosts = out.cost.data();
        Value* const outValues = out.value.data();
        std::size_t n = 0;
        for (std::size_t i = 0; i < size;) {
            const std::size_t end = std::min(size, i + blockSteps);
            pause(end - i);
            for (; i < end; ++i) {
                outCosts[n] = costs[i] + cost;
                outValues[n] = values[i] + value;
                n += reduced[i] <= most ? 1 : 0;
            }
        }
        out.size = n;
    }

    // Appends the merged states that may still end at or below the target as the list after `stage`.
    void keepPromising(std::size_t stage) {
        const StateList& merged = work_.merged;
        StateList& states = work_.states;
        require(merged.size * (stateBytes + listBytes));
        states.reserve(states.size + merged.size);
        work_.bounds.clear();  // so that nothing is copied
        work_.bounds.resize(merged.size);
        work_.reduced.clear();
        work_.reduced.resize(merged.size);
        if (merged.size == 0) return;
        const auto knots = work_.stages.relaxAfter(
            stage, base_.slack - merged.cost[merged.size - 1], base_.slack - merged.cost[0]);
        double cut = toDouble(target_) + margin_;
        double best = toDouble(best_) + margin_;
        std::size_t knot = knots.size() - 1;
        std::size_t n = 0;
        double least = infinity;
        for (std::size_t i = 0; i < merged.size; ++i) {
            if (i % blockSteps == blockSteps - 1) watch_.check();
            const Cost cost = merged.cost[i];
            const Cost left = base_.slack - cost;
            while (knot > 0 && knots[knot].cost > left) --knot;
            const Stages::Knot& at = knots[knot];
            if (at.cost > left) break;
            const double value = toDouble(merged.value[i]);
            const double whole = value + at.value;
            const double bound = whole - at.efficiency * static_cast<double>(left - at.cost);
            if (bound > cut) continue;
            states.cost[states.size + n] = cost;
            states.value[states.size + n] = merged.value[i];
            work_.bounds[n] = bound;
            least = std::min(least, bound);
            work_.reduced[n] = value + base_.multiplier * static_cast<double>(cost);
            ++n;
            if (whole > best || merged.value[i] + at.total > best_) continue;
            best_ = merged.value[i] + at.total;
            known_ = {stage, cost, merged.value[i], at.cost, true};
            best = toDouble(best_) + margin_;
            target_ = std::min(target_, best_);
            cut = toDouble(target_) + margin_;
        }
        states.size += n;
        work_.bounds.resize(n);
        work_.reduced.resize(n);
        leastBound_ = n > 0 ? least : bound_;
    }

    // Of the last list: so many bounds are no larger.
    double boundOfRank(std::size_t rank) {
        work_.sorted.clear();
        work_.sorted.resize(work_.bounds.size());
        for (std::size_t i = 0; i < work_.sorted.size(); i += blockSteps) {
            watch_.check();
            std::copy_n(work_.bounds.data() + i, std::min(blockSteps, work_.sorted.size() - i),
                        work_.sorted.data() + i);
        }
        return ofRank(work_.sorted, rank, blockSteps, [this] { watch_.check(); });
    }

    // Keeps the `beam` states of least bound of the last list; true if others were dropped.
    bool keepBest(std::size_t beam) {
        const std::size_t first = work_.lists.back();
        const std::size_t size = work_.bounds.size();
        if (size <= beam) return false;
        const double last = boundOfRank(beam);
        std::size_t kept = 0;
        for (std::size_t i = 0; i < size && kept < beam; ++i) {
            if (i % blockSteps == blockSteps - 1) watch_.check();
            if (work_.bounds[i] > last) continue;
            work_.states.cost[first + kept] = work_.states.cost[first + i];
            work_.states.value[first + kept] = work_.states.value[first + i];
            work_.reduced[kept] = work_.reduced[i];
            ++kept;
        }
        work_.states.size = first + kept;
        work_.reduced.resize(kept);
        return true;
    }

    // All stages done, or no state left; nothing was dropped that is at or below the target.
    ListSearch finished() {
        ListSearch result;
        result.states = work_.states.size;
        const std::size_t last = work_.states.size - 1;
        if (work_.lists.back() > last || work_.states.value[last] > target_) {
            result = best();
            result.outcome = ListSearch::Outcome::nothing;
            result.bound = toDouble(target_) - margin_;
            return result;
        }
        result.outcome = ListSearch::Outcome::found;
        result.value = work_.states.value[last];
        result.option = base_.option;
        traceFrom(work_.stages.size(), work_.states.cost[last], result.value, result.option);
        return result;
    }

    // Ended early, or after a list was thinned out: without a proof.
    ListSearch stopped(bool thinned) {
        ListSearch result = best();
        result.outcome = ListSearch::Outcome::limit;
        result.exhausted = exhausted_;
        const double bound = thinned ? bound_ : leastBound_;
        result.bound = std::min(bound, toDouble(target_)) - margin_;
        return result;
    }

    ListSearch best() {
        ListSearch result;
        result.states = work_.states.size;
        if (!known_.any) return result;
        result.value = best_;
        result.option = base_.option;
        traceFrom(known_.stage + 1, known_.cost, known_.value, result.option);
        work_.stages.complete(known_.stage, known_.knot, result.option);
        return result;
    }

    // Writes the options that a state after so many stages stands for.
    void traceFrom(std::size_t stages, Cost cost, Value value, std::vector<std::size_t>& option) {
        std::vector<TraceStage> trace;
        trace.reserve(stages);
        const Stages& all = work_.stages;
        for (std::size_t t = 0; t < stages; ++t) {
            const Stages::Stage& stage = all[t];
            const std::size_t first = work_.lists[t];
            const std::size_t count = work_.lists[t + 1] - first;
            trace.push_back({stage.cls, std::span(all.cost).subspan(stage.first, stage.count),
                             std::span(all.value).subspan(stage.first, stage.count),
                             std::span(all.index).subspan(stage.first, stage.count),
                             std::span(work_.states.cost.data() + first, count),
                             std::span(work_.states.value.data() + first, count)});
        }
        const std::vector<std::size_t> taken = traceBack(trace, std::span(&cost, 1), value, watch_);
        for (std::size_t t = 0; t < stages; ++t)
            option[all[t].cls] = all.option[all[t].first + taken[t]];
    }

    const Base& base_;
    Workspace& work_;
    Watch& watch_;
    Value target_;
    Value best_;  // of a known allocation
    double bound_ = 0.0;
    double margin_ = 0.0;
    double leastBound_ = 0.0;  // of the states of the last whole list
    std::size_t held_ = 0;     // bytes of the lists besides `states`
    std::size_t steps_ = 0;
    bool exhausted_ = false;
    Known known_;
};

}  // namespace

void Workspace::giveBack(Watch& watch) {
    states.giveBack(watch);
    merged.giveBack(watch);
    for (StateList& list : pool) list.giveBack(watch);
    for (LargeVector<double>* const numbers : {&bounds, &reduced, &sorted}) {
        *numbers = {};
        watch.poll();
    }
    *this = Workspace();
}

ListSearch searchLists(const Problem& problem, const Base& base, Value target, Value known,
                       const Effort& effort, Workspace& work, Watch& watch) {
    return Search(problem, base, target, known, work, watch).run(effort);
}

}  // namespace rdprune
