// Back-substitution on a CPU: many linear forms of one image at once, one form in each SIMD lane.
//
// A form over an activation is one coefficient for each of its neurons. The coefficients of a block
// of forms are kept neuron by neuron, lanes contiguous, so that every rule in block.h is the same few
// vector instructions for each neuron, whatever the layer's shape. Neurons are ordered height, width,
// channel. Neurons that no form of the block depends on are skipped: those outside its window
// (`Window`), and those that are not `live`, such as inputs of a ReLU that is zero for the whole box.
//
// The relaxations and the rounding errors come in as numbers (operators/, rounding.py); nothing is
// decided here. backsub_torch.py has the same rules for tensors on any device.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "block.h"
#include "linear.h"

namespace {

// Which bounds of a neuron are requested: one or both.
constexpr uint8_t kLower = 1, kUpper = 2;

// The form in a lane: a neuron of one position, or its negative.
struct Side {
    int channel;
    bool negative;
};

// The blocks of one worker; both sizes share their memory.
template <class T>
struct Worker {
    explicit Worker(const Program<T>& program)
        : coefs(neurons(program) * kMostVectors), live(neurons(program)), numbers(neurons(program)),
          wide(program, coefs, live, numbers), narrow(program, coefs, live, numbers) {}

    static int64_t neurons(const Program<T>& program) {
        int64_t sum = 0;
        for (int a = 0; a <= program.steps; ++a) sum += program.plane[a].neurons();
        return sum;
    }

    std::vector<Vector<T>> coefs;
    std::vector<uint8_t> live;
    std::vector<int32_t> numbers;
    std::vector<Side> sides;
    std::vector<int> rows;
    Block<T, kMostVectors> wide;
    Block<T, 1> narrow;
};

// Run work(worker, task) for every task, on up to `threads` threads. Each has a worker of its own, made by make().
// Returns 1 where memory ran out.
template <class Make, class Work>
int32_t share(int threads, int64_t tasks, Make make, Work work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto run = [&] {
        try {
            auto worker = make();
            for (int64_t task = next++; task < tasks && !failed; task = next++) work(worker, task);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    on_threads(std::min<int64_t>(threads, tasks), run);
    return failed;
}

// Bounds of neurons at one position, one in each lane. An upper bound is minus the least value of the negative neuron.
template <class T, int V>
void bound_neurons(Block<T, V>& block, int activation, int image, int64_t position, const Side* sides, int count,
                   T* lower, T* upper) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    const int y = position / f.plane.width, x = position % f.plane.width;
    f.include({y, y + 1, x, x + 1});
    for (int lane = 0; lane < count; ++lane) {
        Vector<T>* c = f.touch(f.at(y, x) + sides[lane].channel);
        c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = sides[lane].negative ? -1 : 1;
    }
    block.substitute(activation, image);
    for (int lane = 0; lane < count; ++lane) {
        const int64_t k = image * f.plane.neurons() + f.at(y, x) + sides[lane].channel;
        sides[lane].negative ? upper[k] = -block.least(lane) : lower[k] = block.least(lane);
    }
}

template <class T>
int32_t bounds(const Program<T>& program, int activation, const uint8_t* asked, T* lower, T* upper) {
    const Plane plane = program.plane[activation];
    const int64_t positions = int64_t(plane.height) * plane.width;
    const int per_block = kMostVectors * Simd<T>::lanes;
    const int64_t blocks = (2 * plane.channels + per_block - 1) / per_block;
    auto make = [&] { return Worker<T>(program); };
    return share(program.threads, program.images * positions * blocks, make, [&](Worker<T>& worker, int64_t task) {
        const int64_t place = task / blocks;  // image and position
        worker.sides.clear();
        for (int c = 0; c < plane.channels; ++c) {
            if (asked[place * plane.channels + c] & kLower) worker.sides.push_back({c, false});
            if (asked[place * plane.channels + c] & kUpper) worker.sides.push_back({c, true});
        }
        const int first = task % blocks * per_block;
        const int count = std::min(int(worker.sides.size()) - first, per_block);
        if (count <= 0) return;
        auto run = [&](auto& block) {
            bound_neurons(block, activation, place / positions, place % positions, worker.sides.data() + first, count,
                          lower, upper);
        };
        count > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

// The least values of forms over an activation, one in each lane. rows: their numbers among the image's forms.
template <class T, int V>
void bound_forms(Block<T, V>& block, int activation, int image, const T* coefs, const int* rows, int count,
                 T* least) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    f.include({0, f.plane.height, 0, f.plane.width});
    for (int64_t k = 0; k < f.plane.neurons(); ++k) {
        Vector<T>* c = f.touch(k);
        for (int lane = 0; lane < count; ++lane)
            c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = coefs[rows[lane] * f.plane.neurons() + k];
    }
    block.substitute(activation, image);
    for (int lane = 0; lane < count; ++lane) least[rows[lane]] = block.least(lane);
}

template <class T>
int32_t minimum(const Program<T>& program, int activation, int rows, const uint8_t* asked, const T* coefs, T* least) {
    const int per_block = kMostVectors * Simd<T>::lanes;
    const int64_t blocks = (rows + per_block - 1) / per_block;
    auto make = [&] { return Worker<T>(program); };
    return share(program.threads, program.images * blocks, make, [&](Worker<T>& worker, int64_t task) {
        const int64_t image = task / blocks, from = image * rows;
        worker.rows.clear();
        for (int row = 0; row < rows; ++row)
            if (asked[from + row]) worker.rows.push_back(row);
        const int first = task % blocks * per_block;
        const int count = std::min(int(worker.rows.size()) - first, per_block);
        if (count <= 0) return;
        auto run = [&](auto& block) {
            bound_forms(block, activation, image, coefs + from * program.plane[activation].neurons(),
                        worker.rows.data() + first, count, least + from);
        };
        count > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

template <class T>
int32_t linear(const Linear<T>& layer) try {
    const PackedWeights<T> packed(layer);
    const int64_t together = images_at_once(layer), tasks = (layer.images + together - 1) / together;
    auto make = [&] { return LinearBounds<T>(layer, packed); };
    return share(layer.threads, tasks, make, [&](LinearBounds<T>& worker, int64_t task) {
        const int64_t first = task * together;
        worker.run(first, std::min(together, layer.images - first));
    });
} catch (const std::bad_alloc&) {
    return 1;
}

}  // namespace

// What backsub_cpp.py calls. Each returns 0, or 1 where memory ran out.
//
// bounds: of an activation's neurons. asked: (images, neurons), kLower, kUpper, their sum, or 0. Requested bounds are
// written into lower and upper, (images, neurons); the others are left as they are.
// minimum: the least values of forms over an activation. coefs: (images, rows, neurons). asked: (images, rows), 1 or 0.
// Requested values are written into least, (images, rows).
// linear: the bounds of a layer's outputs (linear.h).
extern "C" {
int32_t bounds_float(const Program<float>* program, int32_t activation, const uint8_t* asked, float* lower,
                     float* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t bounds_double(const Program<double>* program, int32_t activation, const uint8_t* asked, double* lower,
                      double* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t minimum_float(const Program<float>* program, int32_t activation, int32_t rows, const uint8_t* asked,
                      const float* coefs, float* least) {
    return minimum(*program, activation, rows, asked, coefs, least);
}
int32_t minimum_double(const Program<double>* program, int32_t activation, int32_t rows, const uint8_t* asked,
                       const double* coefs, double* least) {
    return minimum(*program, activation, rows, asked, coefs, least);
}
int32_t linear_float(const Linear<float>* layer) { return linear(*layer); }
int32_t linear_double(const Linear<double>* layer) { return linear(*layer); }
}
