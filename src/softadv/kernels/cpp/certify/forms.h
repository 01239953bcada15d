// What the kernel computes with: the network as backsub_cpp.py passes it, the coefficients of a block of forms, and the
// small matrix products that move them from layer to layer.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../shared.h"

constexpr int kTile = kVectorBytes == 64 ? 8 : 4;  // 8 outputs x 2 vectors fill half of 32 registers
constexpr int kMostVectors = 2;  // vectors of lanes in a block
constexpr int kAddends = 16;     // a sum is carried on elsewhere after so many terms, so that little is rounded away
constexpr int kDepth = 32;       // likewise for coefficients

template <class T>
struct Simd {
    typedef T Vector __attribute__((vector_size(kVectorBytes)));
    static constexpr int lanes = kVectorBytes / sizeof(T);
};
template <class T>
using Vector = typename Simd<T>::Vector;

enum Kind : int32_t { kConv, kScale, kFlatten, kCopy, kAdd, kRelu, kMaxPool };

// One step of the network. Arrays "per image" are (images, neurons of the output). backsub_cpp.py has its twin.
// A ReLU whose lines are all zero passes nothing on: its neuron is not live.
template <class T>
struct Step {
    int32_t kind, inputs[2], kernel[2], stride[2], padding[2], dilation[2], groups;
    const uint8_t* used;    // per image, of the input's neurons: 0 where nothing further back depends on it; or null
    const T* weight;        // conv: (out channels, kernel height, kernel width, in channels / groups); scale: (neurons)
    const T* bias;          // (out channels), or null
    const T* error;         // per image: what rounding may add to or take from each output, or null
    const T* lower_slope;   // per image: the lines of a ReLU or max pooling
    const T* upper_slope;   // per image
    const T* lower_offset;  // per image, or null for zero
    const T* upper_offset;  // per image
    const int32_t* choice;  // per image: the input neuron that a max pooling's lines are lines of
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

struct Window {
    int y0, y1, x0, x1;
    bool empty() const { return y0 >= y1 || x0 >= x1; }
};

// The coefficients of one activation for the forms of a block.
template <class T, int V>
struct Forms {
    Plane plane;
    Window window{0, 0, 0, 0};
    Vector<T>* coefs = nullptr;  // neuron by neuron, V vectors each
    uint8_t* live = nullptr;     // 0: no form depends on this neuron, and its coefficients are not set
    int32_t* numbers = nullptr;  // of the neurons that are live, in the order in which they came to be
    int count = 0;

    int64_t at(int y, int x) const { return (int64_t(y) * plane.width + x) * plane.channels; }
    Vector<T>* of(int64_t neuron) const { return coefs + neuron * V; }

    // Make room for a window; what is new in it is not live.
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

    // The coefficients of a neuron, zero if no form depended on it.
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

// out[at(t)] += sum over i of weights[i][from + at(t)] * coefs[i], for N numbers at(t).
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

// Call(size) for a size that is known in advance: a tile of one output would wait for each of its products.
template <int... sizes, class Call>
inline void rest(std::integer_sequence<int, sizes...>, int64_t size, Call call) {
    ((sizes > 0 && sizes == size ? call(std::integral_constant<int, std::max(sizes, 1)>{}) : void()), ...);
}

// What tile does, for `run` numbers at(t), which are consecutive or a list of them.
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
