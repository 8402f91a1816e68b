// Giving large memory back without keeping anybody waiting.
//
// A gibibyte takes the system a quarter of a second or so to take back. While an exception is under way,
// be it an interrupt or a limit that ends a search, large arrays are left to a thread that gives them
// back piece by piece, so that the caller has control again at once; what searches next may find them
// still there for so long. In all other cases they are given back on the spot.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace rdprune {

inline constexpr std::size_t largeBytes = std::size_t{1} << 22;

// Shrinks in small steps: while the system takes memory back, nobody else gets any.
// Nor do such threads run beside each other.
inline void releaseSlowly(void* memory, std::size_t bytes) noexcept {
    static std::mutex turn;
    const std::lock_guard lock(turn);
    while (bytes > largeBytes) {
        bytes -= largeBytes;
        void* const left = std::realloc(memory, bytes);
        if (left == nullptr) break;
        memory = left;
    }
    std::free(memory);
}

// Frees what std::malloc gave.
inline void release(void* memory, std::size_t bytes) noexcept {
    if (bytes > largeBytes && std::uncaught_exceptions() > 0) {
        try {
            std::thread(releaseSlowly, memory, bytes).detach();
            return;
        } catch (...) {  // no thread to be had
        }
    }
    std::free(memory);
}

// For arrays that may be large. Numbers that nobody gave a value are not written: memory that is first
// touched in one go takes as long as that.
template <typename T>
struct LargeAllocator {
    using value_type = T;

    LargeAllocator() = default;
    template <typename U>
    explicit LargeAllocator(const LargeAllocator<U>& /*other*/) {}

    [[nodiscard]] T* allocate(std::size_t count) {
        if (count > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
        void* const memory = std::malloc(count * sizeof(T));
        if (memory == nullptr) throw std::bad_alloc();
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, std::size_t count) noexcept { release(memory, count * sizeof(T)); }
    template <typename U, typename... Values>
    void construct(U* place, Values&&... values) {
        if constexpr (sizeof...(Values) == 0)
            ::new (static_cast<void*>(place)) U;
        else
            ::new (static_cast<void*>(place)) U(std::forward<Values>(values)...);
    }
    friend bool operator==(const LargeAllocator&, const LargeAllocator&) { return true; }
};

template <typename T>
using LargeVector = std::vector<T, LargeAllocator<T>>;

}  // namespace rdprune
