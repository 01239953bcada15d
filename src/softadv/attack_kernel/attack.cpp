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
#include "workers.h"

namespace {

// The blocks of one worker; both sizes share its memory.
class Worker {
  public:
    Worker(const Attack& attack, const Prepared& prepared)
        : memory_(Block<kWide>::floats(prepared)), wide_(attack, prepared, memory_.get()),
          narrow_(attack, prepared, memory_.get()) {}

    void climb(const Part& part, int from, int to) {
        part.width == kWide ? wide_.climb(part.first, part.count, from, to)
                            : narrow_.climb(part.first, part.count, from, to);
    }

  private:
    const Memory memory_;
    Block<kWide> wide_;
    Block<kNarrow> narrow_;
};

// Blocks and their steps, shared out evenly: all threads are done at the same time, even where there are fewer
// blocks than would come out even (McNaughton's rule). Lay the blocks' work end to end and cut it into one stretch
// for each thread. A block that is cut takes its first steps at the beginning of the later thread's stretch, and its
// last steps at the end of the earlier one's.
class Shared {
  public:
    Shared(const Attack& attack, const Prepared& prepared)
        : attack_(attack), parts_(parts(attack.network)), done_(parts_.size()), threads_(workers_of(attack.network)) {
        for (const Part& part : parts_) cost_ += part.cost();
        for (int i = 0; i < threads_; ++i) workers_.emplace_back(new Worker(attack, prepared));
    }

    void run() {
        // A stretch waits for later ones only, which are taken before it.
        share_out(attack_.network, threads_, [this](int thread) { stretch(thread); });
    }

  private:
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
    int64_t cost_ = 0;
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

// What compiled_attack.py calls: replaces attack.point. Returns 0, or 1 where memory ran out.
extern "C" int32_t climb(const Attack* attack) {
    try {
        const Prepared prepared(attack->network);
        Shared(*attack, prepared).run();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
