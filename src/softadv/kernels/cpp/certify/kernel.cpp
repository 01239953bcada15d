// Back-substitution on a CPU: many linear forms of one image at once, one form in each SIMD lane.
//
// A form over an activation is one coefficient for each of its neurons. The coefficients of a block
// of forms are kept neuron by neuron, lanes contiguous, so that every rule in block.h is the same few
// vector instructions for each neuron, whatever the layer's shape. Neurons are ordered height, width,
// channel. What a block does not touch is skipped: neurons outside its window (`Window`), and neurons
// that are certainly zero for this image (`live`).
//
// The relaxations and the rounding errors come in as numbers (relu.py, rounding.py); nothing is
// decided here. backsub_torch.py has the same rules for tensors on any device.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "block.h"

namespace {

// The blocks of one worker; both sizes share their memory.
template <class T>
struct Worker {
    explicit Worker(const Program<T>& program)
        : coefs(neurons(program) * kMostVectors), live(neurons(program)), wide(program, coefs, live),
          narrow(program, coefs, live) {}

    static int64_t neurons(const Program<T>& program) {
        int64_t sum = 0;
        for (int a = 0; a <= program.steps; ++a) sum += program.plane[a].neurons();
        return sum;
    }

    std::vector<Vector<T>> coefs;
    std::vector<uint8_t> live;
    std::vector<int> asked;
    Block<T, kMostVectors> wide;
    Block<T, 1> narrow;
};

// Run work(worker, task) for every task on all threads. Returns 1 where memory ran out.
template <class T, class Work>
int32_t share(const Program<T>& program, int64_t tasks, Work work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto run = [&] {
        try {
            Worker<T> worker(program);
            for (int64_t task = next++; task < tasks && !failed; task = next++) work(worker, task);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    std::vector<std::thread> others;
    const int64_t wanted = std::min<int64_t>(program.threads, tasks);
    try {
        for (int64_t i = 1; i < wanted; ++i) others.emplace_back(run);
    } catch (...) {  // fewer threads than asked for do the same work
    }
    run();
    for (auto& thread : others) thread.join();
    return failed;
}

// Bounds of neurons number `first` to `last` of the asked channels at one position: each is two lanes.
template <class T, int V>
void bound_neurons(Block<T, V>& block, int activation, int image, int64_t position, const std::vector<int>& asked,
                   int first, int last, T* lower, T* upper) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    const int y = position / f.plane.width, x = position % f.plane.width;
    f.include({y, y + 1, x, x + 1});
    for (int i = first; i < last; ++i) {
        Vector<T>* c = f.touch(f.at(y, x) + asked[i]);
        for (int sign = 0; sign < 2; ++sign) {
            const int lane = 2 * (i - first) + sign;
            c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = sign ? -1 : 1;
        }
    }
    block.substitute(activation, image);
    for (int i = first; i < last; ++i) {
        const int64_t k = image * f.plane.neurons() + f.at(y, x) + asked[i];
        lower[k] = block.least(2 * (i - first));
        upper[k] = -block.least(2 * (i - first) + 1);  // the least of the negative, negated
    }
}

template <class T>
int32_t bounds(const Program<T>& program, int activation, const uint8_t* asked, T* lower, T* upper) {
    const Plane plane = program.plane[activation];
    const int64_t positions = int64_t(plane.height) * plane.width;
    const int per_block = kMostVectors * Simd<T>::lanes / 2;
    const int64_t blocks = (plane.channels + per_block - 1) / per_block;
    return share(program, program.images * positions * blocks, [&](Worker<T>& worker, int64_t task) {
        const int64_t place = task / blocks;  // image and position
        worker.asked.clear();
        for (int c = 0; c < plane.channels; ++c)
            if (asked[place * plane.channels + c]) worker.asked.push_back(c);
        const int count = worker.asked.size(), first = task % blocks * per_block;
        const int last = std::min(count, first + per_block);
        if (first >= last) return;
        auto run = [&](auto& block) {
            bound_neurons(block, activation, place / positions, place % positions, worker.asked, first, last, lower,
                          upper);
        };
        last - first > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

template <class T, int V>
void bound_forms(Block<T, V>& block, int activation, int image, const T* coefs, int count, T* least) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    f.include({0, f.plane.height, 0, f.plane.width});
    for (int64_t k = 0; k < f.plane.neurons(); ++k) {
        Vector<T>* c = f.touch(k);
        for (int lane = 0; lane < count; ++lane)
            c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = coefs[lane * f.plane.neurons() + k];
    }
    block.substitute(activation, image);
    for (int lane = 0; lane < count; ++lane) least[lane] = block.least(lane);
}

template <class T>
int32_t minimum(const Program<T>& program, int activation, int rows, const T* coefs, T* least) {
    const int per_block = kMostVectors * Simd<T>::lanes;
    const int64_t blocks = (rows + per_block - 1) / per_block;
    return share(program, program.images * blocks, [&](Worker<T>& worker, int64_t task) {
        const int image = task / blocks, first = task % blocks * per_block, count = std::min(per_block, rows - first);
        const int64_t row = int64_t(image) * rows + first;
        const T* from = coefs + row * program.plane[activation].neurons();
        auto run = [&](auto& block) { bound_forms(block, activation, image, from, count, least + row); };
        count > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

}  // namespace

// What backsub_cpp.py calls. Each returns 0, or 1 where memory ran out.
//
// bounds: of the neurons of an activation that are asked for, bool (images, neurons); written into lower
// and upper, (images, neurons). minimum: of forms (images, rows, neurons) over an activation, (images, rows).
extern "C" {
int32_t bounds_float(const Program<float>* program, int32_t activation, const uint8_t* asked, float* lower,
                     float* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t bounds_double(const Program<double>* program, int32_t activation, const uint8_t* asked, double* lower,
                      double* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t minimum_float(const Program<float>* program, int32_t activation, int32_t rows, const float* coefs,
                      float* least) {
    return minimum(*program, activation, rows, coefs, least);
}
int32_t minimum_double(const Program<double>* program, int32_t activation, int32_t rows, const double* coefs,
                       double* least) {
    return minimum(*program, activation, rows, coefs, least);
}
}
