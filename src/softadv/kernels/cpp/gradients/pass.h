// The forward and backward pass of a block of images.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "network.h"

// Some lanes of a block, in their order, and the number of the image in each.
template <int Lanes>
struct Seats {
    void add(int to, int64_t number) {
        lane[count] = to;
        image[count++] = number;
    }

    int count = 0;
    int lane[Lanes];
    int64_t image[Lanes];
};

// A block of Lanes images in the memory of a worker. Every value is kept neuron by neuron, in the order height,
// width, channel, the lanes side by side. In the backward pass each value's gradient overwrites the value, which is
// last needed for that gradient: to see whether its ReLU was active.
template <int Lanes>
class Pass {
  public:
    Pass(const Prepared& prepared, float* memory)
        : prepared_(prepared), network_(prepared.network), image_(network_.image) {
        values_.push_back(reinterpret_cast<Vec*>(memory));
        for (int l = 0; l < network_.layers; ++l)
            values_.push_back(values_.back() + network_.layer[l].in.neurons());
    }

  protected:
    using Vec = Vector<Lanes>;

    static Vec all(float value) { return Vec{} + value; }

    void read_labels(const Seats<Lanes>& seats) {
        for (int i = 0; i < seats.count; ++i)
            if (network_.label)
                labels_[seats.lane[i]] = network_.label[seats.image[i]];
            else
                targets_[seats.lane[i]] = network_.target + seats.image[i] * classes();
    }

    int classes() const { return network_.layer[network_.layers - 1].out.channels; }

    // Whether the label of a lane is not the first among its largest logits.
    bool is_fooled(int lane) const {
        const auto* logit = reinterpret_cast<const float*>(values_[network_.layers]) + lane;
        int first = 0;
        for (int c = 1; c < classes(); ++c)
            if (logit[c * Lanes] > logit[first * Lanes]) first = c;
        return first != labels_[lane];
    }

    void forward() {
        for (int l = 0; l < network_.layers; ++l) forward(l);
    }

    // Replace the input values of layer l by their gradients, which are zero where the ReLU before was inactive.
    void backward_in_place(int l) {
        if (network_.layer[l - 1].relu)
            backward(l, [in = values_[l]](int64_t k, Vec gradient) { in[k] = in[k] <= 0.0f ? Vec{} : gradient; });
        else
            backward(l, [in = values_[l]](int64_t k, Vec gradient) { in[k] = gradient; });
    }

    // From images (N, C, H, W) into the lanes of a plane.
    void read(const float* images, const Seats<Lanes>& seats, Vec* plane) const {
        auto* lanes = reinterpret_cast<float*>(plane);
        each_value(seats, [&](int64_t in_plane, int64_t in_images) { lanes[in_plane] = images[in_images]; });
    }

    // And back.
    void write(const Vec* plane, const Seats<Lanes>& seats, float* images) const {
        const auto* lanes = reinterpret_cast<const float*>(plane);
        each_value(seats, [&](int64_t in_plane, int64_t in_images) { images[in_images] = lanes[in_plane]; });
    }

    // Call visit(place in a plane's lanes, place in a tensor of images) for every value.
    template <class Visit>
    void each_value(const Seats<Lanes>& seats, Visit visit) const {
        const int64_t pixels = int64_t(image_.height) * image_.width;
        constexpr int64_t some = 16;  // floats of a cache line: images can lie so that they evict each other's lines
        for (int c = 0; c < image_.channels; ++c)
            for (int64_t p = 0; p < pixels; p += some)
                for (int i = 0; i < seats.count; ++i) {
                    const int64_t at = (seats.image[i] * image_.channels + c) * pixels;
                    for (int64_t q = p; q < std::min(p + some, pixels); ++q)
                        visit((q * image_.channels + c) * Lanes + seats.lane[i], at + q);
                }
    }

    void forward(int l) {
        const Layer& layer = network_.layer[l];
        if (layer.kind == kConv)
            layer.relu ? forward<true>(*prepared_.convs[l], values_[l], values_[l + 1])
                       : forward<false>(*prepared_.convs[l], values_[l], values_[l + 1]);
        else
            normalize(l);
    }

    void normalize(int l) {
        const Layer& layer = network_.layer[l];
        const Plane& plane = network_.layer[l].in;
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

    // Replace the logits by the gradient of the cross-entropy. losses: receives each lane's loss, or null; losses are
    // computed for labels only.
    void differentiate_loss(float* losses) {
        const int classes = this->classes();
        const bool relu = network_.layer[network_.layers - 1].relu;
        auto* logits = reinterpret_cast<float*>(values_[network_.layers]);
        for (int lane = 0; lane < Lanes; ++lane) {
            float* logit = logits + lane;
            float most = logit[0], sum = 0;
            for (int c = 1; c < classes; ++c) most = std::max(most, logit[c * Lanes]);
            for (int c = 0; c < classes; ++c) sum += std::exp(logit[c * Lanes] - most);
            // In this order, rounding does not cancel the small loss of a confidently classified image.
            if (losses) losses[lane] = std::log(sum) - (logit[labels_[lane] * Lanes] - most);
            for (int c = 0; c < classes; ++c) {
                float& value = logit[c * Lanes];
                const float wanted = network_.label ? (c == labels_[lane] ? 1.0f : 0.0f)
                                                    : (targets_[lane] ? targets_[lane][c] : 0.0f);
                const float gradient = std::exp(value - most) / sum - wanted;
                value = relu && value <= 0 ? 0.0f : gradient;
            }
        }
    }

    // The same for the TRADES loss of pairs, an image and its attacked version in the next lane: the cross-entropy of
    // the first, plus `weight` times KL(p || q) of the two softmax distributions.
    void differentiate_pairs(float weight, float* losses) {
        const bool relu = network_.layer[network_.layers - 1].relu;
        auto* logits = reinterpret_cast<float*>(values_[network_.layers]);
        for (int lane = 0; lane < Lanes; lane += 2) {
            float most[2], log_sum[2];
            for (int of = 0; of < 2; ++of) {
                const float* logit = logits + lane + of;
                float sum = 0;
                most[of] = logit[0];
                for (int c = 1; c < classes(); ++c) most[of] = std::max(most[of], logit[c * Lanes]);
                for (int c = 0; c < classes(); ++c) sum += std::exp(logit[c * Lanes] - most[of]);
                log_sum[of] = std::log(sum);
            }
            const auto log_p = [&](int c) { return logits[c * Lanes + lane] - most[0] - log_sum[0]; };
            const auto log_q = [&](int c) { return logits[c * Lanes + lane + 1] - most[1] - log_sum[1]; };
            float divergence = 0;
            for (int c = 0; c < classes(); ++c) divergence += std::exp(log_p(c)) * (log_p(c) - log_q(c));
            losses[lane] = -log_p(labels_[lane]) + weight * divergence;
            losses[lane + 1] = 0;
            for (int c = 0; c < classes(); ++c) {
                const float p = std::exp(log_p(c)), q = std::exp(log_q(c)), apart = log_p(c) - log_q(c);
                const float gradient = p - (c == labels_[lane] ? 1.0f : 0.0f) + weight * p * (apart - divergence);
                float &first = logits[c * Lanes + lane], &second = logits[c * Lanes + lane + 1];
                first = relu && first <= 0 ? 0.0f : gradient;
                second = relu && second <= 0 ? 0.0f : weight * (q - p);
            }
        }
    }

    // Call finish(neuron, vector) with the gradient by every input value of layer l.
    template <class Finish>
    void backward(int l, Finish finish) {
        if (network_.layer[l].kind == kConv)
            backward(*prepared_.convs[l], values_[l + 1], finish);
        else {
            const Plane& plane = network_.layer[l].in;
            for (int64_t k = 0; k < plane.neurons(); ++k)
                finish(k, values_[l + 1][k] / network_.layer[l].deviation[k % plane.channels]);
        }
    }

    template <class Finish>
    void backward(const Conv& conv, const Vec* grad_output, Finish& finish) {
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
                        runs[many++] = {grad_output + (int64_t(row) * out.width + from) * out.channels,
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

    static constexpr int kMostRuns = 32;  // rows of a kernel, as kernels/chain.py makes sure

    const Prepared& prepared_;
    const Network& network_;
    const Plane& image_;
    std::vector<Vec*> values_;  // the input of each layer, and last the logits
    int64_t labels_[Lanes] = {};
    const float* targets_[Lanes] = {};
};
