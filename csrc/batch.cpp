#include "batch.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "hull.h"
#include "layout.h"
#include "multi_budget.h"
#include "single_budget.h"

namespace rdprune {

namespace {

struct Cancelled {};

class Batch {
public:
    Batch(const Instance& instance, std::size_t options, std::span<const Cost> budgets,
          const Limits& limits, Watch& watch)
        : layout_({instance.costs, instance.distortions.first(options), instance.offsets,
                   instance.allowed, instance.groups, instance.dimensions},
                  watch),
          distortions_(instance.distortions),
          options_(options),
          budgets_(budgets.begin(), budgets.end()),
          limits_(limits),
          solutions_(instance.distortions.size() / options) {
        for (Cost& budget : budgets_) budget = std::min(budget, maxTotalCost);
        limits_.poll = [this] {
            if (stop_) throw Cancelled{};
        };
    }

    std::vector<Solution> run(std::size_t threads, const std::function<void()>& poll) {
        {
            Workers workers{stop_, {}};
            working_ = std::min(threads, solutions_.size());
            for (std::size_t i = 0, count = working_; i < count; ++i)
                workers.threads.emplace_back([this] { work(); });
            std::unique_lock lock(mutex_);
            while (!done_.wait_for(lock, std::chrono::milliseconds(20),
                                   [this] { return working_ == 0; })) {
                lock.unlock();
                if (poll) poll();
                lock.lock();
            }
        }
        if (error_) std::rethrow_exception(error_);
        return std::move(solutions_);
    }

private:
    // Stops and joins its threads, however the scope ends.
    struct Workers {
        std::atomic<bool>& stop;
        std::vector<std::thread> threads;

        ~Workers() {
            stop = true;
            for (std::thread& thread : threads) thread.join();
        }
    };

    void work() {
        try {
            solveAll();
        } catch (const Cancelled&) {
        }
        const std::lock_guard lock(mutex_);
        if (--working_ == 0) done_.notify_one();
    }

    // Lets Cancelled through, which the workspace then does not delay.
    void solveAll() {
        Workspace workspace;
        while (!failed_ && !stop_) {
            const std::size_t next = next_++;
            if (next >= solutions_.size()) break;
            try {
                solutions_[next] = solveOne(next, workspace);
            } catch (const Cancelled&) {
                throw;
            } catch (const std::invalid_argument& error) {
                fail(next, std::make_exception_ptr(std::invalid_argument(
                               "instance " + std::to_string(next) + ": " + error.what())));
            } catch (...) {
                fail(next, std::current_exception());
            }
        }
        Watch watch(limits_);
        workspace.giveBack(watch);
    }

    Solution solveOne(std::size_t instance, Workspace& workspace) const {
        Watch watch(limits_);
        const Problem problem =
            layout_.problem(distortions_.subspan(instance * options_, options_), watch);
        const Limits left{watch.left(), limits_.bytes, limits_.poll};
        if (problem.dimensions > 1) return solveMultiBudget(problem, budgets_, left);
        return solveSingleBudget(problem, relax(problem), budgets_.front(), left, workspace);
    }

    // Instances are taken in order, so all before the first one that fails end too.
    void fail(std::size_t instance, std::exception_ptr error) {
        const std::lock_guard lock(mutex_);
        if (!error_ || instance < failedInstance_) {
            error_ = std::move(error);
            failedInstance_ = instance;
        }
        failed_ = true;
    }

    Layout layout_;
    std::span<const Distortion> distortions_;
    std::size_t options_;
    std::vector<Cost> budgets_;
    Limits limits_;
    std::vector<Solution> solutions_;
    std::atomic<std::size_t> next_ = 0;
    std::atomic<bool> stop_ = false;
    std::atomic<bool> failed_ = false;
    std::mutex mutex_;
    std::condition_variable done_;
    std::size_t working_ = 0;
    std::exception_ptr error_;
    std::size_t failedInstance_ = 0;
};

}  // namespace

std::vector<Solution> solveBatch(const Instance& instance, std::span<const Cost> budgets,
                                 std::size_t threads, const Limits& limits) {
    const std::size_t options = instance.allowed.size();
    if (options == 0 || instance.distortions.empty() || instance.distortions.size() % options != 0)
        throw std::invalid_argument("distortions must have one or more rows of all options");
    if (budgets.size() != instance.dimensions)
        throw std::invalid_argument("budgets must have one entry per cost");
    for (const Cost budget : budgets)
        if (budget < 0) throw std::invalid_argument("budgets must not be negative");
    if (threads == 0) throw std::invalid_argument("threads must be at least 1");
    Watch watch(limits);
    return Batch(instance, options, budgets, limits, watch).run(threads, limits.poll);
}

}  // namespace rdprune
