// The network as kernels/chain.py passes it, and its weights in the layout that the kernels use.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "product.h"

enum Kind : int32_t { kConv, kNormalize };

// One layer. A linear layer is a convolution of a plane of one pixel, whose channels are all neurons of the input plane
// in their order.
struct Layer {
    Plane in, out;
    int32_t kind, relu;     // relu: whether one follows
    int32_t kernel[2], stride[2], padding[2];
    int32_t taps;           // convolution: the kernel's pixels; linear: those of the plane that it reads
    const float* weight;    // convolution or linear: (outputs, channels, taps), as PyTorch keeps it
    const float* bias;      // (outputs), or null
    const float* mean;      // normalisation: (channels); (x - mean) / deviation
    const float* deviation;
    float* weight_gradient;  // as weight: where its gradient goes, or null
    float* bias_gradient;
};

struct Network {
    Plane image;
    int32_t layers, images, threads;
    const Layer* layer;     // the first reads the image; the last makes one pixel, whose channels are the classes
    const float* x;         // (images, channels, height, width)
    const int64_t* label;   // (images), or null
    const float* target;    // where there are no labels: (images, classes), target probabilities
};

// A convolution with its weights laid out for both directions.
//
// Backwards, the input's pixels are grouped into tiles of `stride` pixels. All pixels of a tile are reached by the same
// few windows, each pixel through another tap, so that a tile is one matrix product. Its outputs are the channels of
// the tile's pixels; its inputs are the windows that reach it, (rows, columns, out channels), the farthest first.
class Conv {
  public:
    explicit Conv(const Layer& layer) : layer(layer), in(layer.in), out(layer.out) {
        for (int axis = 0; axis < 2; ++axis) reach[axis] = (layer.kernel[axis] - 1) / layer.stride[axis] + 1;
        const int64_t inputs = int64_t(layer.kernel[0]) * layer.kernel[1] * in.channels;
        const int64_t windows = int64_t(reach[0]) * reach[1] * out.channels;
        forward = {nullptr, out.channels, inputs};
        backward = {nullptr, layer.stride[0] * layer.stride[1] * in.channels, windows};
        memory_.reset(new float[forward.outputs * inputs + backward.outputs * windows]);
        forward.weights = memory_.get();
        backward.weights = memory_.get() + forward.outputs * inputs;
        for (int y = 0; y < layer.stride[0]; ++y)
            for (int x = 0; x < layer.stride[1]; ++x)
                for (int c = 0; c < in.channels; ++c)
                    places.push_back({y, x, (int64_t(y) * in.width + x) * in.channels + c});
        std::unique_ptr<float[]> ordered;
        const float* weight = layer.weight;  // (outputs, taps, channels), as the neurons lie
        if (const int64_t channels = inputs / layer.taps; channels > 1 && layer.taps > 1) {
            float* to = new float[forward.outputs * inputs];
            ordered.reset(to);
            for (int o = 0; o < forward.outputs; ++o)
                for (int64_t tap = 0; tap < layer.taps; ++tap)
                    for (int64_t c = 0; c < channels; ++c) *to++ = weight[o * inputs + c * layer.taps + tap];
            weight = ordered.get();
        }
        lay_forward(weight);
        lay_backward(weight);
    }

    // Where an output of `backward` lies, counted from the first pixel of its tile.
    struct Place {
        int y, x;
        int64_t neuron;
    };

    const Layer& layer;
    const Plane& in;
    const Plane& out;
    int reach[2];  // rows and columns of windows that reach a tile
    Matrix forward, backward;
    std::vector<Place> places;

  private:
    void lay_forward(const float* weight) {
        each_panel(forward.outputs, [&](int first, auto width) {
            constexpr int N = decltype(width)::value;
            float* to = forward.weights + first * forward.depth;
            const float* from = weight + first * forward.depth;
            for (int64_t k = 0; k < forward.depth; ++k)
                for (int n = 0; n < N; ++n) *to++ = from[n * forward.depth + k];
        });
    }

    void lay_backward(const float* weight) {
        each_panel(backward.outputs, [&](int first, auto width) {
            constexpr int N = decltype(width)::value;
            float* to = backward.weights + first * backward.depth;
            const float* from[N];  // for each output: the weights of its tap in the last window, or null
            for (int ty = reach[0] - 1; ty >= 0; --ty)
                for (int tx = reach[1] - 1; tx >= 0; --tx) {
                    for (int n = 0; n < N; ++n) {
                        const Place& place = places[first + n];
                        const int i = place.y + ty * layer.stride[0], j = place.x + tx * layer.stride[1];
                        const bool inside = i < layer.kernel[0] && j < layer.kernel[1];
                        const int64_t tap = (int64_t(i) * layer.kernel[1] + j) * in.channels;
                        from[n] = inside ? weight + tap + (first + n) % in.channels : nullptr;
                    }
                    for (int o = 0; o < out.channels; ++o)
                        for (int n = 0; n < N; ++n) *to++ = from[n] ? from[n][o * forward.depth] : 0.0f;
                }
        });
    }

    std::unique_ptr<float[]> memory_;
};

// What workers share: the network and its weights, laid out.
struct Prepared {
    explicit Prepared(const Network& network) : network(network) {
        convs.reserve(network.layers);
        for (int l = 0; l < network.layers; ++l)
            if (network.layer[l].kind == kConv)
                convs.emplace_back(new Conv(network.layer[l]));
            else
                convs.emplace_back(nullptr);
    }

    // Neurons of one image: the image's, and what each layer makes.
    int64_t neurons() const {
        int64_t sum = network.image.neurons();
        for (int l = 0; l < network.layers; ++l) sum += network.layer[l].out.neurons();
        return sum;
    }

    const Network& network;
    std::vector<std::unique_ptr<Conv>> convs;  // of each layer; null for a normalisation
};
