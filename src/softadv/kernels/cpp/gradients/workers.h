// Shared by the kernels' workers: memory, threads, and the number of lanes of a block.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>

#include "network.h"

constexpr int kWide = kLanes, kNarrow = kLanes / 2;  // lanes of a block

// Floats at an address aligned for vectors.
class Memory {
  public:
    explicit Memory(int64_t floats) : floats_(new (std::align_val_t(kAlignment)) float[floats]) {}
    float* get() const { return floats_.get(); }

  private:
    static constexpr int kAlignment = 64;
    struct Free {
        void operator()(float* memory) const { operator delete[](memory, std::align_val_t(kAlignment)); }
    };
    std::unique_ptr<float[], Free> floats_;
};

// An event that one thread signals once; other threads sleep until then.
class Event {
  public:
    void happen() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            happened_ = true;
        }
        changed_.notify_all();
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return happened_; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool happened_ = false;
};

// Call work(i) for each i below `count`, the last first, on so many threads or fewer.
template <class Work>
void share_out(int count, Work work) {
    std::atomic<int> left{count};
    auto take = [&] {
        for (int i = --left; i >= 0; i = --left) work(i);
    };
    on_threads(count, take);
}
