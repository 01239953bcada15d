// Shared by all kernels: the processor's vectors, planes of neurons, and threads.

#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// The neurons of an activation, in the order height, width, channel.
struct Plane {
    int32_t height, width, channels;
    int64_t neurons() const { return int64_t(height) * width * channels; }
};

// Call work() on `count` threads at once, this one included; on fewer where no more can be started. The calls share
// the tasks out among themselves, so that fewer of them do the same work.
template <class Work>
void on_threads(int64_t count, Work& work) {
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < count; ++i) others.emplace_back([&work] { work(); });
    } catch (...) {  // no memory, or no more threads
    }
    work();
    for (auto& thread : others) thread.join();
}
