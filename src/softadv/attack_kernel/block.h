// One block of images on its way uphill: all steps of the attack, forwards, backwards and along the sign.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "network.h"

// What workers share: the attack and the network's weights, laid out.
struct Prepared {
    explicit Prepared(const Attack& attack) : attack(attack) {
        convs.reserve(attack.layers);
        for (int l = 0; l < attack.layers; ++l)
            if (attack.layer[l].kind == kConv)
                convs.emplace_back(new Conv(attack.layer[l]));
            else
                convs.emplace_back(nullptr);
    }

    // Neurons that a block keeps for each image: the ball's centre, the image, and what each layer makes.
    int64_t neurons() const {
        int64_t sum = 2 * attack.image.neurons();
        for (int l = 0; l < attack.layers; ++l) sum += attack.layer[l].out.neurons();
        return sum;
    }

    const Attack& attack;
    std::vector<std::unique_ptr<Conv>> convs;  // of each layer; null for a normalisation
};

// A block of Lanes images in the memory of a worker. Every value is kept neuron by neuron, in the order height,
// width, channel, the lanes side by side. Backwards, slopes take the place of the values that they are slopes by:
// of a value, only whether its ReLU let it through is asked again, and last by its own slope.
template <int Lanes>
class Block {
  public:
    Block(const Prepared& prepared, float* memory) : prepared_(prepared), attack_(prepared.attack), image_(attack_.image) {
        center_ = reinterpret_cast<Vec*>(memory);
        values_.push_back(center_ + image_.neurons());
        for (int l = 0; l < attack_.layers; ++l)
            values_.push_back(values_.back() + attack_.layer[l].in.neurons());
    }

    // Take steps number `from` to `to` with the images from `first` on.
    void climb(int64_t first, int count, int from, int to) {
        read(attack_.x, first, count, center_);
        read(attack_.point, first, count, values_[0]);
        for (int lane = 0; lane < Lanes; ++lane) labels_[lane] = lane < count ? attack_.label[first + lane] : 0;
        for (int step = from; step < to; ++step) {
            for (int l = 0; l < attack_.layers; ++l) forward(l);
            differentiate_loss();
            for (int l = attack_.layers - 1; l > 0; --l)
                if (attack_.layer[l - 1].relu)
                    backward(l, [in = values_[l]](int64_t k, Vec slope) { in[k] = in[k] <= 0.0f ? Vec{} : slope; });
                else
                    backward(l, [in = values_[l]](int64_t k, Vec slope) { in[k] = slope; });
            backward(0, [this](int64_t k, Vec slope) { advance(k, slope); });
        }
        write(first, count);
    }

  private:
    using Vec = Vector<Lanes>;

    static Vec all(float value) { return Vec{} + value; }

    // Images (N, C, H, W) into a plane; lanes without an image are zero.
    void read(const float* images, int64_t first, int count, Vec* plane) {
        auto* lanes = reinterpret_cast<float*>(plane);
        each_value(first, Lanes, [&](int lane, int64_t neuron, int64_t at) {
            lanes[neuron * Lanes + lane] = lane < count ? images[at] : 0.0f;
        });
    }

    void write(int64_t first, int count) {
        const auto* lanes = reinterpret_cast<const float*>(values_[0]);
        each_value(first, count, [&](int lane, int64_t neuron, int64_t at) {
            attack_.point[at] = lanes[neuron * Lanes + lane];
        });
    }

    // Call visit(lane, neuron, its place in a tensor of images) for the images from `first` on.
    template <class Visit>
    void each_value(int64_t first, int count, Visit visit) const {
        const int64_t pixels = int64_t(image_.height) * image_.width;
        constexpr int64_t some = 16;  // that a line of the cache holds: images may lie so that they drive each other out
        for (int c = 0; c < image_.channels; ++c)
            for (int64_t p = 0; p < pixels; p += some)
                for (int lane = 0; lane < count; ++lane) {
                    const int64_t at = ((first + lane) * image_.channels + c) * pixels;
                    for (int64_t q = p; q < std::min(p + some, pixels); ++q)
                        visit(lane, q * image_.channels + c, at + q);
                }
    }

    void forward(int l) {
        const Layer& layer = attack_.layer[l];
        if (layer.kind == kConv)
            layer.relu ? forward<true>(*prepared_.convs[l], values_[l], values_[l + 1])
                       : forward<false>(*prepared_.convs[l], values_[l], values_[l + 1]);
        else
            normalize(l);
    }

    void normalize(int l) {
        const Layer& layer = attack_.layer[l];
        const Plane& plane = attack_.layer[l].in;
        for (int64_t k = 0; k < plane.neurons(); ++k) {
            const int c = k % plane.channels;
            const Vec value = (values_[l][k] - layer.mean[c]) / layer.deviation[c];
            values_[l + 1][k] = layer.relu ? rectified(value) : value;
        }
    }

    static Vec rectified(Vec value) { return value < 0.0f ? Vec{} : value; }  // a NaN stays, as in PyTorch

    template <bool Relu>
    void forward(const Conv& conv, const Vec* in, Vec* out) {
        const Layer& layer = conv.layer;
        const int channels = conv.in.channels;
        Run<Lanes> runs[kMostRuns];
        for (int y = 0; y < conv.out.height; ++y)
            for (int x = 0; x < conv.out.width; ++x, out += conv.out.channels) {
                const int top = y * layer.stride[0] - layer.padding[0], left = x * layer.stride[1] - layer.padding[1];
                const int from = std::max(0, -left), to = std::min<int>(layer.kernel[1], conv.in.width - left);
                int many = 0;
                for (int i = std::max(0, -top); i < std::min<int>(layer.kernel[0], conv.in.height - top); ++i)
                    if (from < to) {
                        const int64_t neuron = (int64_t(top + i) * conv.in.width + left + from) * channels;
                        runs[many++] = {in + neuron, (int64_t(i) * layer.kernel[1] + from) * channels,
                                        (to - from) * channels};
                    }
                multiply<Lanes>(conv.forward, runs, many, [&](int o, Vec sum) {
                    if (layer.bias) sum += layer.bias[o];
                    out[o] = Relu ? rectified(sum) : sum;
                });
            }
    }

    // The slope of the cross-entropy by the logits, in their place.
    void differentiate_loss() {
        const int classes = attack_.layer[attack_.layers - 1].out.channels;
        const bool relu = attack_.layer[attack_.layers - 1].relu;
        auto* logits = reinterpret_cast<float*>(values_[attack_.layers]);
        for (int lane = 0; lane < Lanes; ++lane) {
            float* logit = logits + lane;
            float most = logit[0], sum = 0;
            for (int c = 1; c < classes; ++c) most = std::max(most, logit[c * Lanes]);
            for (int c = 0; c < classes; ++c) sum += std::exp(logit[c * Lanes] - most);
            for (int c = 0; c < classes; ++c) {
                float& value = logit[c * Lanes];
                const float slope = std::exp(value - most) / sum - (c == labels_[lane] ? 1.0f : 0.0f);
                value = relu && value <= 0 ? 0.0f : slope;
            }
        }
    }

    // Give finish(neuron, vector) the slope by every value that layer l reads.
    template <class Finish>
    void backward(int l, Finish finish) {
        if (attack_.layer[l].kind == kConv)
            backward(*prepared_.convs[l], values_[l + 1], finish);
        else {
            const Plane& plane = attack_.layer[l].in;
            for (int64_t k = 0; k < plane.neurons(); ++k)
                finish(k, values_[l + 1][k] / attack_.layer[l].deviation[k % plane.channels]);
        }
    }

    template <class Finish>
    void backward(const Conv& conv, const Vec* slopes, Finish& finish) {
        const Layer& layer = conv.layer;
        const Plane &in = conv.in, &out = conv.out;
        Run<Lanes> runs[kMostRuns];
        // Tiles are counted from the first row and column of the padding.
        const int last_y = (layer.padding[0] + in.height - 1) / layer.stride[0];
        const int last_x = (layer.padding[1] + in.width - 1) / layer.stride[1];
        for (int y = layer.padding[0] / layer.stride[0]; y <= last_y; ++y)
            for (int x = layer.padding[1] / layer.stride[1]; x <= last_x; ++x) {
                const int top = y - conv.reach[0] + 1, left = x - conv.reach[1] + 1;  // the first window in reach
                const int from = std::max(0, left), to = std::min<int>(out.width - 1, x);
                int many = 0;
                for (int row = std::max(0, top); row <= std::min<int>(out.height - 1, y); ++row)
                    if (from <= to)
                        runs[many++] = {slopes + (int64_t(row) * out.width + from) * out.channels,
                                        (int64_t(row - top) * conv.reach[1] + from - left) * out.channels,
                                        (to - from + 1) * out.channels};
                const int pixel_y = y * layer.stride[0] - layer.padding[0];
                const int pixel_x = x * layer.stride[1] - layer.padding[1];
                const int64_t first = (int64_t(pixel_y) * in.width + pixel_x) * in.channels;
                multiply<Lanes>(conv.backward, runs, many, [&](int at, Vec sum) {
                    const Conv::Place& place = conv.places[at];
                    const int row = pixel_y + place.y, column = pixel_x + place.x;
                    if (row >= 0 && row < in.height && column >= 0 && column < in.width)
                        finish(first + place.neuron, sum);
                });
            }
    }

    // A step of one neuron of the image along the sign of its slope, back into its ball and into [0, 1].
    void advance(int64_t k, Vec slope) {
        Vec low = center_[k] - attack_.eps, high = center_[k] + attack_.eps;
        low = low < 0.0f ? Vec{} : low;
        high = high > 1.0f ? all(1) : high;
        Vec& value = values_[0][k];
        value += slope > 0.0f ? all(attack_.alpha) : slope < 0.0f ? all(-attack_.alpha) : Vec{};
        value = value < low ? low : value;
        value = value > high ? high : value;
    }

    static constexpr int kMostRuns = 32;  // rows of a kernel, as compiled_attack.py makes sure

    const Prepared& prepared_;
    const Attack& attack_;
    const Plane& image_;
    Vec* center_;
    std::vector<Vec*> values_;  // what each layer reads, and last the logits
    int64_t labels_[Lanes];
};
