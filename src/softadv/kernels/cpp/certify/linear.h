// Intervals of the outputs of convolutions and linear layers, and bounds of their rounding errors, in one pass.
//
// The formulas are those of operators/weighted.py (Conv.interval, _terms) and rounding.py (Arithmetic.sum_errors), whose
// theorem holds for every order of the sums. Each lane computes one output channel. A column is one output pixel of one
// image; several columns are computed together, so that weights are loaded once for all of them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "forms.h"

#if defined(__AVX512F__)
constexpr int kColumns = 6;  // computed together: 4 sums for each of 6, and 4 weights, fit into 32 registers
#else
constexpr int kColumns = 2;
#endif
constexpr int kImages = 12;  // computed together where each has few columns

// A layer. _Layer in linear_cpp.py has the same layout. Arrays are (images, height, width, channels).
template <class T>
struct Linear {
    int32_t images, threads, kernel[2], stride[2], padding[2], dilation[2];
    int32_t rectified;  // whether inputs are evaluated behind a ReLU, so at least 0
    int32_t sound;      // whether rounding errors are bounded
    Plane in, out;
    const T* weight;  // (out channels, kernel height, kernel width, in channels)
    const T* bias;    // (out channels)
    const T* lower;   // of the inputs
    const T* upper;
    T* least;  // of the outputs
    T* most;
    T* error;                                            // what a form pays for each output
    double raised, limit;                                // magnitudes are raised to; from here on, nothing is proven
    double addition, evaluation, form, constant, bound;  // SumCosts of rounding.py
};

template <class T>
int images_at_once(const Linear<T>& layer) {
    return int64_t(layer.out.height) * layer.out.width >= kImages ? 1 : kImages;
}

// A layer's weights, output channels in lanes, and where in a padded plane the inputs of each tap lie.
template <class T>
class PackedWeights {
  public:
    explicit PackedWeights(const Linear<T>& l)
        : vectors((l.out.channels + Simd<T>::lanes - 1) / Simd<T>::lanes), width(l.in.width + 2 * l.padding[1]),
          height(l.in.height + 2 * l.padding[0]) {
        const int ins = l.in.channels, taps_x = l.kernel[1], taps = l.kernel[0] * taps_x;
        weights_.resize(int64_t(taps) * ins * vectors);
        for (int o = 0; o < l.out.channels; ++o)
            for (int64_t t = 0; t < int64_t(taps) * ins; ++t)
                weights_[t * vectors + o / Simd<T>::lanes][o % Simd<T>::lanes] = l.weight[o * int64_t(taps) * ins + t];
        bias_.resize(vectors);
        for (int o = 0; o < l.out.channels; ++o) bias_[o / Simd<T>::lanes][o % Simd<T>::lanes] = l.bias[o];
        for (int i = 0; i < l.kernel[0]; ++i)
            for (int j = 0; j < taps_x; ++j)
                places.push_back((int64_t(i) * l.dilation[0] * width + int64_t(j) * l.dilation[1]) * ins);
    }

    const Vector<T>* of(int64_t tap) const { return weights_.data() + tap * vectors; }
    const Vector<T>& bias(int v) const { return bias_[v]; }

    const int vectors, width, height;
    std::vector<int64_t> places;  // of each tap, from a window's first neuron on

  private:
    std::vector<Vector<T>> weights_, bias_;
};

// The bounds of a few images at a time. Each worker has one, and uses its memory again.
template <class T>
class LinearBounds {
  public:
    LinearBounds(const Linear<T>& layer, const PackedWeights<T>& packed)
        : l_(layer), packed_(packed) {
        const int64_t pixels = int64_t(images_at_once(layer)) * packed.height * packed.width;
        for (auto* values : {&middle_, &spread_, &high_, &low_}) values->assign(pixels * layer.in.channels, T(0));
        live_.assign(pixels, T(0));
    }

    void run(int64_t first_image, int images) {
        bool negative = false;
        for (int g = 0; g < images; ++g) negative |= read(first_image + g, g);
        const int64_t pixels = int64_t(l_.out.height) * l_.out.width, columns = images * pixels;
        auto tiles = [&](auto size, int64_t at) {
            for (; at + size() <= columns; at += size()) {
                if (!l_.sound)
                    tile<size(), false, false>(first_image, pixels, at);
                else if (!negative)
                    tile<size(), true, false>(first_image, pixels, at);
                else
                    tile<size(), true, true>(first_image, pixels, at);
            }
            return at;
        };
        tiles(std::integral_constant<int, 1>{}, tiles(std::integral_constant<int, kColumns>{}, 0));
    }

  private:
    T raised(T value) const { return value < T(l_.raised) ? T(l_.raised) : value; }  // NaN stays NaN

    // Copy an image's inputs into the padded planes. g: its place among those computed together. Returns whether an
    // input may be negative.
    bool read(int64_t image, int g) {
        const int channels = l_.in.channels;
        bool negative = false;
        for (int y = 0; y < l_.in.height; ++y)
            for (int x = 0; x < l_.in.width; ++x) {
                const int64_t from = (image * l_.in.height + y) * l_.in.width + x;
                const int64_t to = (int64_t(g) * packed_.height + y + l_.padding[0]) * packed_.width + x + l_.padding[1];
                const T* lower = l_.lower + from * channels;
                const T* upper = l_.upper + from * channels;
                T* middle = middle_.data() + to * channels;
                T* spread = spread_.data() + to * channels;
                T* high = high_.data() + to * channels;
                T* low = low_.data() + to * channels;
                T live = 0, least = 0;
                for (int c = 0; c < channels; ++c) {
                    middle[c] = (lower[c] + upper[c]) / 2;
                    spread[c] = (upper[c] - lower[c]) / 2;
                    const T evaluated = l_.rectified && lower[c] < 0 ? T(0) : lower[c];
                    high[c] = raised(upper[c]);
                    low[c] = raised(-evaluated);
                    live += evaluated != 0 || upper[c] != 0 ? T(1) : T(0);
                    least = evaluated < least ? evaluated : least;
                }
                live_[to] = live;
                negative |= least < 0;
            }
        return negative;
    }

    template <int N, bool kSound, bool kNegative>
    void tile(int64_t first_image, int64_t pixels, int64_t first) {
        const int channels = l_.in.channels;
        int64_t base[N];  // pixels in the padded planes
        T terms[N];
        for (int n = 0; n < N; ++n) {
            const int64_t g = (first + n) / pixels, pixel = (first + n) % pixels;
            const int64_t y = pixel / l_.out.width * l_.stride[0], x = pixel % l_.out.width * l_.stride[1];
            base[n] = (g * packed_.height + y) * packed_.width + x;
            terms[n] = 1;
            for (const int64_t place : packed_.places) terms[n] += live_[base[n] + place / channels];
        }
        const Vector<T> least = Vector<T>{} + T(l_.raised);
        for (int v = 0; v < packed_.vectors; ++v) {
            Vector<T> middle[N] = {}, spread[N] = {}, positive[N] = {}, negative[N] = {};
            for (size_t tap = 0; tap < packed_.places.size(); ++tap) {
                const Vector<T>* weights = packed_.of(tap * channels) + v;
                int64_t from[N];
                for (int n = 0; n < N; ++n) from[n] = base[n] * channels + packed_.places[tap];
                for (int c = 0; c < channels; ++c) {
                    const Vector<T> w = weights[int64_t(c) * packed_.vectors], size = w < 0 ? -w : w;
                    const Vector<T> plus = w < least ? least : w, minus = -w < least ? least : -w;
                    for (int n = 0; n < N; ++n) {
                        const int64_t k = from[n] + c;
                        middle[n] += w * middle_[k];
                        spread[n] += size * spread_[k];
                        if constexpr (kSound) {
                            positive[n] += plus * high_[k];
                            negative[n] += minus * high_[k];
                        }
                        if constexpr (kNegative) {
                            positive[n] += minus * low_[k];
                            negative[n] += plus * low_[k];
                        }
                    }
                }
            }
            for (int n = 0; n < N; ++n)
                finish((first_image * pixels + first + n) * l_.out.channels, v, terms[n], middle[n], spread[n],
                       positive[n], negative[n]);
        }
    }

    void finish(int64_t to, int v, T terms, Vector<T> middle, Vector<T> spread, Vector<T> positive, Vector<T> negative) {
        const int first = v * Simd<T>::lanes, lanes = std::min(Simd<T>::lanes, l_.out.channels - first);
        const Vector<T> zero = {}, bias = packed_.bias(v);
        middle += bias;
        Vector<T> paid = zero;
        if (l_.sound) {
            const Vector<T> least = zero + T(l_.raised);
            positive += bias < least ? least : bias;
            negative += -bias < least ? least : -bias;
            Vector<T> whole = positive + negative;
            whole = whole < zero + T(l_.limit) ? whole : zero + std::numeric_limits<T>::infinity();  // NaN, too
            const Vector<T> larger = positive < negative ? negative : positive;
            const Vector<T> evaluation = larger * (terms * T(l_.addition)) + whole * T(l_.evaluation);
            store(l_.error + to + first, evaluation + whole * T(l_.form) + (bias < 0 ? -bias : bias) * T(l_.constant), lanes);
            paid = evaluation * 4 + whole * T(l_.bound);
        }
        store(l_.least + to + first, middle - spread - paid, lanes);
        store(l_.most + to + first, middle + spread + paid, lanes);
    }

    static void store(T* to, const Vector<T>& values, int lanes) {
        if (lanes == Simd<T>::lanes)
            std::memcpy(to, &values, sizeof values);
        else
            for (int lane = 0; lane < lanes; ++lane) to[lane] = values[lane];
    }

    const Linear<T>& l_;
    const PackedWeights<T>& packed_;
    std::vector<T> middle_, spread_, high_, low_;  // (images, padded height, padded width, channels)
    std::vector<T> live_;                          // of each padded pixel: how many inputs may differ from zero
};
