// Projected gradient descent on a CPU: many images at once, one in each SIMD lane.
//
// A block of images takes all its steps before the next block begins, so that its values stay in the processor's
// cache, and every layer is the same few vector instructions for each neuron, whatever its shape (product.h).
// What is computed is what attacks.py and gradients.py compute with PyTorch, which every other model and device
// goes through.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "block.h"

namespace {

constexpr int kWide = kLanes, kNarrow = kLanes / 2;  // images of a block

// Images `first` to `first + count` in a block of `width` lanes.
struct Part {
    int64_t first;
    int count, width;

    // The time of a step, in thirds of a wide block's: half the lanes need as many weights loaded.
    int cost() const { return width == kWide ? 3 : 2; }
};

// The blocks of one worker; both sizes share its memory.
class Worker {
  public:
    explicit Worker(const Prepared& prepared)
        : memory_(new (std::align_val_t(kAlignment)) float[prepared.neurons() * kWide]),
          wide_(prepared, memory_.get()), narrow_(prepared, memory_.get()) {}

    void climb(const Part& part, int from, int to) {
        part.width == kWide ? wide_.climb(part.first, part.count, from, to)
                            : narrow_.climb(part.first, part.count, from, to);
    }

  private:
    static constexpr int kAlignment = 64;
    struct Free {
        void operator()(float* memory) const { operator delete[](memory, std::align_val_t(kAlignment)); }
    };
    std::unique_ptr<float[], Free> memory_;
    Block<kWide> wide_;
    Block<kNarrow> narrow_;
};

// Wide blocks, and a narrow one where that is enough for the rest; narrow ones where there are more threads.
std::vector<Part> parts(const Attack& attack) {
    std::vector<Part> found;
    const int width = int64_t(kWide) * attack.threads > attack.images ? kNarrow : kWide;
    for (int64_t first = 0; first < attack.images; first += found.back().count) {
        const int count = std::min<int64_t>(width, attack.images - first);
        found.push_back({first, count, count <= kNarrow ? kNarrow : kWide});
    }
    return found;
}

// Blocks and their steps, shared out evenly: all threads are done at the same time, even where there are fewer
// blocks than would come out even (McNaughton's rule). Lay the blocks' work end to end and cut it into one stretch
// for each thread. A block that is cut takes its first steps at the beginning of the later thread's stretch, and its
// last steps at the end of the earlier one's.
class Shared {
  public:
    Shared(const Prepared& prepared, int threads)
        : attack_(prepared.attack), parts_(parts(prepared.attack)), done_(parts_.size()), threads_(threads), left_(threads) {
        for (const Part& part : parts_) cost_ += part.cost();
        for (int i = 0; i < threads; ++i) workers_.emplace_back(new Worker(prepared));
    }

    void run() {
        if (threads_ > 1 && attack_.parallel) {
            attack_.parallel([](void* shared) { static_cast<Shared*>(shared)->work(); }, this, threads_, 0);
            return;
        }
        std::vector<std::thread> others;
        try {
            for (int i = 1; i < threads_; ++i) others.emplace_back([this] { work(); });
        } catch (...) {  // fewer threads than asked for do the same work
        }
        work();
        for (auto& thread : others) thread.join();
    }

  private:
    // Take what stretches are left. The last goes first: a stretch waits for later ones only.
    void work() {
        for (int i = --left_; i >= 0; i = --left_) stretch(i);
    }

    void stretch(int thread) {
        const int64_t work = cost_ * attack_.steps;
        const int64_t begin = work * thread / threads_, end = work * (thread + 1) / threads_;
        int64_t at = 0;
        for (size_t b = 0; b < parts_.size(); ++b) {
            const Part& part = parts_[b];
            // Work begins with the last step: the later the stretch, the earlier the steps.
            const int from = attack_.steps - steps_before(end - at, part.cost());
            const int to = attack_.steps - steps_before(begin - at, part.cost());
            if (from < to) {
                while (done_[b].load(std::memory_order_acquire) < from) std::this_thread::yield();
                workers_[thread]->climb(part, from, to);
                done_[b].store(to, std::memory_order_release);
            }
            at += int64_t(part.cost()) * attack_.steps;
        }
    }

    int steps_before(int64_t work, int cost) const {
        return std::clamp<int64_t>((work + cost / 2) / cost, 0, attack_.steps);
    }

    const Attack& attack_;
    const std::vector<Part> parts_;
    std::vector<std::atomic<int>> done_;  // steps of each block
    const int threads_;
    std::atomic<int> left_;
    int64_t cost_ = 0;
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

// What compiled_attack.py calls: replaces attack.point. Returns 0, or 1 where memory ran out.
extern "C" int32_t climb(const Attack* attack) {
    try {
        const Prepared prepared(*attack);
        const int64_t most = (attack->images + kNarrow - 1) / kNarrow;
        Shared(prepared, std::max<int64_t>(1, std::min<int64_t>(attack->threads, most))).run();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
