// Used by all kernels: the width of the processor's vectors, the shape of an activation, and threads.

#pragma once

#include <cstdint>
#include <optional>
#include <thread>

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// The shape of an activation. Its neurons lie in the order height, width, channel: a pixel's channels side by side.
struct Plane {
    int32_t height, width, channels;
    int64_t neurons() const { return int64_t(height) * width * channels; }
};

// Call work() on `count` threads, of which this is one, and wait asleep until all have returned. Each thread starts half
// of those that are left. Where one cannot be started there are fewer: work() takes its tasks from a counter that the
// threads share, so that they do the same work.
template <class Work>
void on_threads(int64_t count, Work& work) {
    if (count < 2) return work();
    std::optional<std::thread> other;
    try {
        other.emplace([&work, count] { on_threads(count / 2, work); });
    } catch (...) {  // no memory, or no more threads
    }
    on_threads(count - count / 2, work);
    if (other) other->join();
}
