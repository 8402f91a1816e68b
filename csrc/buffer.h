// An array of plain numbers that grows without being cleared, which std::vector insists on: memory counts
// once it is written, and the lists of a search are reserved for more than they come to hold. Large
// arrays grow in place where the system can do that.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#include "release.h"
#include "watch.h"

namespace rdprune {

template <typename T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }
    ~Buffer() { release(data_, capacity_ * sizeof(T)); }

    // Empties it piece by piece; calls `look` in between, which may throw.
    template <typename Look>
    void giveBack(Look&& look) {
        constexpr std::size_t piece = largeBytes / sizeof(T);
        while (capacity_ > piece) {
            void* const left = std::realloc(data_, (capacity_ - piece) * sizeof(T));
            if (left == nullptr) break;
            data_ = static_cast<T*>(left);
            capacity_ -= piece;
            look();
        }
        std::free(std::exchange(data_, nullptr));
        capacity_ = 0;
    }

    void giveBack(Watch& watch) {
        giveBack([&] { watch.poll(); });
    }

    // Keeps what is there, uninitialised beyond.
    void reserve(std::size_t most) {
        if (most <= capacity_) return;
        const std::size_t capacity = std::max(most, capacity_ + capacity_ / 2);
        void* const grown = std::realloc(data_, capacity * sizeof(T));
        if (grown == nullptr) throw std::bad_alloc();
        data_ = static_cast<T*>(grown);
        capacity_ = capacity;
    }
    [[nodiscard]] T* data() { return data_; }
    [[nodiscard]] const T* data() const { return data_; }
    T& operator[](std::size_t i) { return data_[i]; }
    const T& operator[](std::size_t i) const { return data_[i]; }

private:
    T* data_ = nullptr;
    std::size_t capacity_ = 0;
};

}  // namespace rdprune
