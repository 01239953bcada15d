// Projected gradient descent on a CPU: many images at once, one in each SIMD lane.
//
// The images in the lanes take their steps while their values stay in the processor's cache, and every layer is the
// same few vector instructions for each neuron, whatever its shape (product.h).
// The results are those of attacks/pgd.py and kernels/input_gradients.py, which serve all other models and devices.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "attack_block.h"
#include "workers.h"

namespace {

template <int Lanes>
void climb(const Attack& attack, const Prepared& prepared, const Schedule& schedule) {
    std::vector<Memory> memories;
    std::vector<AttackBlock<Lanes>> blocks;  // one per worker; made here, since a thread cannot report a lack of memory
    for (int i = 0; i < schedule.workers; ++i) {
        memories.emplace_back(AttackBlock<Lanes>::floats(prepared));
        blocks.emplace_back(attack, prepared, memories.back().get());
    }
    std::vector<Event> left(schedule.workers);
    // A worker waits only for the next one, which starts before it: so workers cannot deadlock.
    share_out(schedule.workers, [&](int worker) { blocks[worker].climb(schedule, worker, left.data()); });
}

template <int Lanes>
void climb_until_fooled(const Attack& attack, const Prepared& prepared) {
    const int64_t wanted = (int64_t(attack.network.images) + Lanes - 1) / Lanes;
    const int workers = std::min<int64_t>(attack.network.threads, wanted);
    std::vector<Memory> memories;
    std::vector<AttackBlock<Lanes>> blocks;
    for (int i = 0; i < workers; ++i) {
        memories.emplace_back(AttackBlock<Lanes>::floats(prepared));
        blocks.emplace_back(attack, prepared, memories.back().get());
    }
    // Whichever worker takes an image, its steps are the same.
    std::atomic<int64_t> next{0};
    share_out(workers, [&](int worker) { blocks[worker].climb_until_fooled(next); });
}

}  // namespace

// What kernels/pgd.py calls: replaces attack.point. Returns 0, or 1 where memory ran out.
extern "C" int32_t climb(const Attack* attack) {
    try {
        if (attack->steps == 0) return 0;
        const Prepared prepared(attack->network);
        if (attack->further >= 0) {
            // With few images for each lane, wide blocks would wait long for the last ones.
            if (attack->network.images >= 2 * kWide * attack->network.threads)
                climb_until_fooled<kWide>(*attack, prepared);
            else
                climb_until_fooled<kNarrow>(*attack, prepared);
            return 0;
        }
        const Schedule wide(*attack, kWide), narrow(*attack, kNarrow);
        // A step with half the lanes takes two thirds of the time: as many weights are loaded.
        if (3 * wide.length <= 2 * narrow.length)
            climb<kWide>(*attack, prepared, wide);
        else
            climb<kNarrow>(*attack, prepared, narrow);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
