// What a search may use, and how it asks whether to go on.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <limits>

namespace rdprune {

struct Limits {
    double seconds = std::numeric_limits<double>::infinity();
    std::size_t bytes = std::size_t{1} << 30;  // of search states; deterministic, unlike seconds
    std::function<void()> poll;                // called now and then; may throw to interrupt
};

// Thrown inside a search, and caught there, when a limit ends it.
struct LimitReached {};

// Started once per solve; `expired` is cheap enough to be asked every few thousand steps.
class Watch {
public:
    explicit Watch(const Limits& limits) : limits_(limits), start_(Clock::now()) {}

    [[nodiscard]] bool expired() {
        return std::chrono::duration<double>(poll() - start_).count() > limits_.seconds;
    }
    // Gives the caller's `poll` its turn every 10 ms; returns the time.
    std::chrono::steady_clock::time_point poll() {
        const Clock::time_point now = Clock::now();
        if (limits_.poll && now - lastPoll_ > std::chrono::milliseconds(10)) {
            lastPoll_ = now;
            limits_.poll();
        }
        return now;
    }
    // For loops: to be called every few ten thousand steps, with the bytes the search holds.
    void check(std::size_t bytes = 0) {
        if (bytes > limits_.bytes || expired()) throw LimitReached{};
    }
    [[nodiscard]] std::size_t bytes() const { return limits_.bytes; }
    // Seconds until the limit, for a search inside this one.
    [[nodiscard]] double left() const {
        const std::chrono::duration<double> spent = Clock::now() - start_;
        return std::max(limits_.seconds - spent.count(), 0.0);
    }

private:
    using Clock = std::chrono::steady_clock;
    const Limits& limits_;
    Clock::time_point start_;
    Clock::time_point lastPoll_ = start_;
};

// Asks a watch every so many steps only: for loops whose steps are cheap and come in uneven numbers.
class Pace {
public:
    explicit Pace(Watch& watch) : watch_(watch) {}

    // Counts steps. Whether the time is up, as far as it has been looked at.
    bool expiredAfter(std::size_t steps) {
        steps_ += steps;
        if (steps_ < stepsBetween) return expired_;
        steps_ = 0;
        return expired_ = watch_.expired();
    }

private:
    static constexpr std::size_t stepsBetween = std::size_t{1} << 16;
    Watch& watch_;
    std::size_t steps_ = 0;
    bool expired_ = false;
};

}  // namespace rdprune
