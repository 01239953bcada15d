// The kernel's data: the network as backsub_cpp.py passes it, and the coefficients of a block of linear forms. And the
// matrix product that takes coefficients back through a convolution or a linear layer.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../shared.h"

constexpr int kTile = kVectorBytes == 64 ? 8 : 4;  // neurons summed together: 8 with 2 vectors fill 16 of 32 registers
constexpr int kMostVectors = 2;                    // a neuron's coefficients in a block are 1 or 2 vectors
// A long sum is split, so that few roundings lie between a term and its total. backsub_cpp.py has the same two numbers,
// and counts the roundings with them: they are part of the proof.
constexpr int kAddends = 16;  // of a constant: so many neurons' terms are summed, then added to a total in double
constexpr int kDepth = 32;    // of a coefficient: so many products are summed, then added to it

template <class T>
struct Simd {
    typedef T Vector __attribute__((vector_size(kVectorBytes)));
    static constexpr int lanes = kVectorBytes / sizeof(T);
};
template <class T>
using Vector = typename Simd<T>::Vector;

enum Kind : int32_t { kConv, kScale, kFlatten, kCopy, kAdd, kRelu, kMaxPool, kGather };

// One step of the network; _Step in backsub_cpp.py has the same layout. An array "per image" is (images, neurons of the
// output). A neuron whose ReLU is zero for the whole box has lines of zeros: no form depends on its input.
template <class T>
struct Step {
    int32_t kind, inputs[2], kernel[2], stride[2], padding[2], dilation[2], groups;
    const uint8_t* used;    // (images, neurons of the input): 0 where it is zero on the whole box; or null
    const T* weight;        // conv: (out channels, kernel height, kernel width, in channels / groups); scale: (neurons)
    const T* bias;          // (out channels), or null
    const T* error;         // per image: what rounding may add to or take from each output, or null
    const T* lower_slope;   // per image: the lines of a ReLU or max pooling
    const T* upper_slope;   // per image
    const T* lower_offset;  // per image, or null for zero
    const T* upper_offset;  // per image
    const int32_t* choice;  // max pooling, per image: the input neuron that its lines are lines of; gather: (neurons),
                            // the input neuron that each output is, or -1
};

template <class T>
struct Program {
    int32_t steps;           // step i reads activations of earlier steps and makes activation i + 1
    int32_t images, threads;
    const Step<T>* step;
    const Plane* plane;      // of each activation, the image first
    const T* center;         // (images, neurons of the image): the box is center +- radius
    const T* radius;
};

// The pixels of rows y0 to y1 - 1 and columns x0 to x1 - 1.
struct Window {
    int y0, y1, x0, x1;
    bool empty() const { return y0 >= y1 || x0 >= x1; }
};

// The coefficients of a block's forms over one activation.
template <class T, int V>
struct Forms {
    Plane plane;
    Window window{0, 0, 0, 0};
    Vector<T>* coefs = nullptr;  // neuron by neuron, V vectors each
    uint8_t* live = nullptr;     // 1: a form may depend on the neuron; 0: none does, and its coefficients are not set
    int32_t* numbers = nullptr;  // the live neurons, in the order in which they became live
    int count = 0;               // of live neurons

    int64_t at(int y, int x) const { return (int64_t(y) * plane.width + x) * plane.channels; }
    Vector<T>* of(int64_t neuron) const { return coefs + neuron * V; }

    // Widen the window until it contains another one. Neurons that are new in it are not live.
    void include(Window w) {
        if (w.empty()) return;
        Window all = window.empty() ? w
                                    : Window{std::min(w.y0, window.y0), std::max(w.y1, window.y1),
                                             std::min(w.x0, window.x0), std::max(w.x1, window.x1)};
        for (int y = all.y0; y < all.y1; ++y)
            for (int x = all.x0; x < all.x1; ++x)
                if (window.empty() || y < window.y0 || y >= window.y1 || x < window.x0 || x >= window.x1)
                    std::memset(live + at(y, x), 0, plane.channels);
        window = all;
    }

    // The coefficients of a neuron, to add to. One that was not live becomes live, with coefficients of zero.
    Vector<T>* touch(int64_t neuron) {
        Vector<T>* c = of(neuron);
        if (!live[neuron]) {
            live[neuron] = 1;
            numbers[count++] = neuron;
            for (int v = 0; v < V; ++v) c[v] = Vector<T>{};
        }
        return c;
    }
};

// out[at(t)] += the sum over i < count of weights[i][from + at(t)] * coefs[i], for N neurons at(0), …, at(N - 1).
template <class T, int V, int N, class At>
inline void tile(const Vector<T>* const* coefs, const T* const* weights, int count, int64_t from, At at,
                 Vector<T>* out) {
    int64_t place[N];
    for (int t = 0; t < N; ++t) place[t] = at(t);
    Vector<T> sum[N][V] = {};
    for (int i = 0; i < count; ++i) {
        const T* w = weights[i] + from;
        Vector<T> c[V];
        for (int v = 0; v < V; ++v) c[v] = coefs[i][v];
        for (int t = 0; t < N; ++t)
            for (int v = 0; v < V; ++v) sum[t][v] += c[v] * w[place[t]];
    }
    for (int t = 0; t < N; ++t)
        for (int v = 0; v < V; ++v) out[place[t] * V + v] += sum[t][v];
}

// Call `call` with a size as a compile-time constant; not at all where it is 0. What is left of a run is one tile of
// that size. With a tile for each neuron, every product would wait for the one before it.
template <int... sizes, class Call>
inline void rest(std::integer_sequence<int, sizes...>, int64_t size, Call call) {
    ((sizes > 0 && sizes == size ? call(std::integral_constant<int, std::max(sizes, 1)>{}) : void()), ...);
}

// The same for `run` neurons, kDepth products at a time. The neurons are consecutive, or those of a list.
template <class T, int V, class At>
inline void accumulate(const Vector<T>* const* coefs, const T* const* weights, int count, int64_t from, int64_t run,
                       At at, Vector<T>* out) {
    for (int i = 0; i < count; i += kDepth) {
        const int some = std::min(kDepth, count - i);
        auto sized = [&](auto size, int64_t t) {
            tile<T, V, size()>(coefs + i, weights + i, some, from, [&](int64_t k) { return at(t + k); }, out);
        };
        int64_t t = 0;
        for (; t + kTile <= run; t += kTile) sized(std::integral_constant<int, kTile>{}, t);
        rest(std::make_integer_sequence<int, kTile>{}, run - t, [&](auto size) { sized(size, t); });
    }
}
