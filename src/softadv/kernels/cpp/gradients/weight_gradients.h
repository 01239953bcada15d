// The gradients of a layer's weights: sums of products of its outputs' gradients and its input values.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "network.h"

// The sum over all lanes: halves are added, recursively.
template <int Lanes>
inline float total(Vector<Lanes> vector) {
    if constexpr (Lanes == 2)
        return vector[0] + vector[1];
    else {
        Vector<Lanes / 2> halves[2];
        std::memcpy(halves, &vector, sizeof vector);
        return total<Lanes / 2>(halves[0] + halves[1]);
    }
}

// Vector with the lanes of number `at...` of two vectors side by side.
template <int Lanes, int... at>
inline Vector<Lanes> choose(Vector<Lanes> a, Vector<Lanes> b, std::integer_sequence<int, at...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, at...);
#else
    typedef int Numbers __attribute__((vector_size(4 * Lanes)));
    return __builtin_shuffle(a, b, Numbers{at...});
#endif
}

// Lane l of the result: where l has the bit `apart`, b[l - apart] + b[l], elsewhere a[l] + a[l + apart].
template <int Lanes, int apart, int... lane>
inline Vector<Lanes> add_neighbours(Vector<Lanes> a, Vector<Lanes> b, std::integer_sequence<int, lane...>) {
    using Lower = std::integer_sequence<int, (lane & apart ? Lanes + lane - apart : lane)...>;
    using Upper = std::integer_sequence<int, (lane & apart ? Lanes + lane : lane + apart)...>;
    return choose<Lanes>(a, b, Lower{}) + choose<Lanes>(a, b, Upper{});
}

// The lane sums of as many vectors as there are lanes, in order; the vectors are overwritten.
template <int Lanes, int apart = 1>
inline Vector<Lanes> totals(Vector<Lanes>* vectors) {
    if constexpr (apart == Lanes)
        return vectors[0];
    else {
        for (int i = 0; i < Lanes / apart; i += 2)
            vectors[i / 2] =
                add_neighbours<Lanes, apart>(vectors[i], vectors[i + 1], std::make_integer_sequence<int, Lanes>{});
        return totals<Lanes, 2 * apart>(vectors);
    }
}

// Call visit(first, width) for tiles of up to 4 that cover `count`, with the width as a compile-time constant.
template <class Visit>
inline void each_tile(int count, Visit visit) {
    int first = 0;
    auto rest = [&](auto width) {
        for (; first + width() <= count; first += width()) visit(first, width);
    };
    rest(std::integral_constant<int, 4>{});
    rest(std::integral_constant<int, 2>{});
    rest(std::integral_constant<int, 1>{});
}

// A gradient as a worker adds it up: a row for each output, inputs in the order of the neurons.
struct Rows {
    float* first;
    int64_t stride;
    float* operator[](int64_t row) const { return first + row * stride; }
};

// Some positions of a convolution, and the distance from one to the next, in neurons of a block.
struct Walk {
    int rows, columns;
    int64_t value_row, value_column, gradient_row, gradient_column;
};

// Load a value once. Compilers would otherwise load it again for each product; a tile's purpose is to save loads.
template <class Value>
inline Value in_register(Value value) {
#if defined(__AVX512F__)
    asm("" : "+v"(value));
#elif defined(__AVX__)
    asm("" : "+x"(value));
#endif
    return value;
}

// Products of K adjacent inputs and O adjacent outputs' gradients, summed over a walk, lane by lane: (O, K).
// A separate function, because the compiler then finds registers for all sums.
template <int Lanes, int O, int K>
__attribute__((noinline)) void correlate(const Vector<Lanes>* values, const Vector<Lanes>* grad_output, const Walk walk,
                                         Vector<Lanes>* sums) {
    Vector<Lanes> sum[O * K];
    for (int n = 0; n < O * K; ++n) sum[n] = Vector<Lanes>{};
    for (int y = 0; y < walk.rows; ++y) {
        const Vector<Lanes>* value = values + y * walk.value_row;
        const Vector<Lanes>* gradient = grad_output + y * walk.gradient_row;
        for (int x = 0; x < walk.columns; ++x, value += walk.value_column, gradient += walk.gradient_column) {
            Vector<Lanes> held[K];
            for (int j = 0; j < K; ++j) held[j] = in_register(value[j]);
            for (int i = 0; i < O; ++i) {
                const Vector<Lanes> by = in_register(gradient[i]);
                for (int j = 0; j < K; ++j) sum[i * K + j] += by * held[j];
            }
        }
    }
    for (int n = 0; n < O * K; ++n) sums[n] = sum[n];
}

// Add the contribution of `inputs` adjacent neurons to a gradient, over all positions of a walk.
template <int Lanes>
inline void add_positions(const Vector<Lanes>* values, int inputs, const Vector<Lanes>* grad_output, int outputs,
                          const Walk& walk, Rows gradient) {
    each_tile(outputs, [&](int o, auto high) {
        each_tile(inputs, [&](int k, auto wide) {
            constexpr int O = decltype(high)::value, K = decltype(wide)::value;
            Vector<Lanes> sum[O * K];
            correlate<Lanes, O, K>(values + k, grad_output + o, walk, sum);
            if constexpr (O * K % Lanes == 0)
                for (int i = 0; i < O * K; i += Lanes) {
                    const Vector<Lanes> found = totals<Lanes>(sum + i);
                    for (int n = 0; n < Lanes; ++n) gradient[o + (i + n) / K][k + (i + n) % K] += found[n];
                }
            else
                for (int n = 0; n < O * K; ++n) gradient[o + n / K][k + n % K] += total<Lanes>(sum[n]);
        });
    });
}

// The outputs along one axis whose windows have tap `tap` inside the plane: the first, and how many.
struct Span {
    Span(int tap, int stride, int padding, int entered, int left) {
        first = std::max(0, (padding - tap + stride - 1) / stride);
        const int reach = entered - 1 + padding - tap;
        count = reach < 0 ? 0 : std::max(0, std::min(left, reach / stride + 1) - first);
    }
    int first, count;
};

template <int Lanes>
inline void add_convolution(const Conv& conv, const Vector<Lanes>* values, const Vector<Lanes>* grad_output,
                            Rows gradient) {
    const Layer& layer = conv.layer;
    const Plane &in = conv.in, &out = conv.out;
    const int64_t pixel = in.channels, row = pixel * in.width;
    // Without padding at the sides, all taps of a row are inside the plane for the same outputs, and read adjacent
    // neurons. Otherwise each tap is handled separately.
    const int together = layer.padding[1] ? 1 : layer.kernel[1];
    for (int i = 0; i < layer.kernel[0]; ++i)
        for (int j = 0; j < layer.kernel[1]; j += together) {
            const Span y(i, layer.stride[0], layer.padding[0], in.height, out.height);
            const Span x(j + together - 1, layer.stride[1], layer.padding[1], in.width, out.width);
            if (!y.count || !x.count) continue;
            const int64_t top = y.first * layer.stride[0] - layer.padding[0] + i;
            const int64_t left = x.first * layer.stride[1] - layer.padding[1] + j;
            const Walk walk{y.count, x.count, layer.stride[0] * row, layer.stride[1] * pixel,
                            int64_t(out.width) * out.channels, out.channels};
            const int64_t tap = (int64_t(i) * layer.kernel[1] + j) * pixel;
            add_positions<Lanes>(values + top * row + left * pixel, together * in.channels,
                                 grad_output + (int64_t(y.first) * out.width + x.first) * out.channels, out.channels,
                                 walk,
                                 {gradient.first + tap, gradient.stride});
        }
}

// The same where the only window is the whole plane: with vectors along the inputs, image by image, no sums over lanes
// are needed.
// turned: scratch memory for Lanes rows like the gradient's, whose stride is a multiple of kLanes.
template <int Lanes>
inline void add_linear(const Conv& conv, const Vector<Lanes>* values, const Vector<Lanes>* grad_output, float* turned,
                       Rows gradient) {
    using Wide = Vector<kLanes>;
    const int64_t inputs = conv.forward.depth, stride = gradient.stride;
    const auto* lanes = reinterpret_cast<const float*>(values);
    for (int lane = 0; lane < Lanes; ++lane)
        std::fill(turned + lane * stride + inputs, turned + (lane + 1) * stride, 0.0f);
    for (int64_t k = 0; k < inputs; ++k)
        for (int lane = 0; lane < Lanes; ++lane) turned[lane * stride + k] = lanes[k * Lanes + lane];
    const auto* scalars = reinterpret_cast<const float*>(grad_output);
    const auto* rows = reinterpret_cast<const Wide*>(turned);
    const int64_t vectors = stride / kLanes;
    // Inputs in the outer loop: a tile's values stay in the first-level cache for all outputs.
    each_tile(vectors, [&](int k, auto wide) {
        each_tile(conv.out.channels, [&](int o, auto high) {
            constexpr int O = decltype(high)::value, K = decltype(wide)::value;
            Wide sum[O][K] = {};
            for (int lane = 0; lane < Lanes; ++lane) {
                Wide held[K];
                for (int j = 0; j < K; ++j) held[j] = in_register(rows[lane * vectors + k + j]);
                for (int i = 0; i < O; ++i)
                    for (int j = 0; j < K; ++j) sum[i][j] += held[j] * scalars[(o + i) * Lanes + lane];
            }
            for (int i = 0; i < O; ++i)
                for (int j = 0; j < K; ++j) reinterpret_cast<Wide*>(gradient[o + i])[k + j] += sum[i][j];
        });
    });
}

template <int Lanes>
inline void add_biases(const Plane& out, const Vector<Lanes>* grad_output, float* gradient) {
    const int64_t positions = int64_t(out.height) * out.width;
    for (int o = 0; o < out.channels; ++o) {
        Vector<Lanes> sum = {};
        for (int64_t p = 0; p < positions; ++p) sum += grad_output[p * out.channels + o];
        gradient[o] += total<Lanes>(sum);
    }
}
