// The matrix product that takes most of the kernels' time: weights times the neurons of a block, one image per lane.

#pragma once

#include <cstdint>
#include <type_traits>

#include "../shared.h"

constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr int kPanel = kVectorBytes == 64 ? 16 : 8;  // the sums of a panel fill half of 32 registers

template <int Lanes>
struct Simd {
    typedef float Vector __attribute__((vector_size(4 * Lanes), may_alias));
};
template <int Lanes>
using Vector = typename Simd<Lanes>::Vector;

// A matrix of weights, in panels of up to kPanel outputs, each (depth, outputs of the panel): a panel's sums then read
// consecutive memory.
struct Matrix {
    float* weights = nullptr;
    int outputs = 0;
    int64_t depth = 0;  // inputs
};

// Consecutive neurons. input: the column of the matrix that the first of them is multiplied by.
template <int Lanes>
struct Run {
    const Vector<Lanes>* neurons;
    int64_t input;
    int count;
};

// Call visit(first output, width) for each panel of a matrix, with the width as a compile-time constant.
template <class Visit>
inline void each_panel(int outputs, Visit visit) {
    int first = 0;
    auto rest = [&](auto width) {
        for (; first + width() <= outputs; first += width()) visit(first, width);
    };
    rest(std::integral_constant<int, kPanel>{});
    if constexpr (kPanel > 8) rest(std::integral_constant<int, 8>{});
    rest(std::integral_constant<int, 4>{});
    rest(std::integral_constant<int, 2>{});
    rest(std::integral_constant<int, 1>{});
}

// Multiply a matrix by the neurons of some runs, and call finish(output, vector) for each output.
// The order in which an output's products are added does not depend on the number of lanes.
template <int Lanes, class Finish>
inline void multiply(const Matrix& matrix, const Run<Lanes>* runs, int many, Finish finish) {
    each_panel(matrix.outputs, [&](int first, auto width) {
        constexpr int N = decltype(width)::value;
        Vector<Lanes> sum[N] = {};
        for (const Run<Lanes>* run = runs; run < runs + many; ++run) {
            const float* weight = matrix.weights + first * matrix.depth + run->input * N;
            for (int k = 0; k < run->count; ++k, weight += N)
                for (int n = 0; n < N; ++n) sum[n] += run->neurons[k] * weight[n];
        }
        for (int n = 0; n < N; ++n) finish(first + n, sum[n]);
    });
}
