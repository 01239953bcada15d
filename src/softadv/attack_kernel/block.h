// One block of images on its way uphill: all steps of the attack, forwards, backwards and along the sign.

#pragma once

#include <cstdint>

#include "pass.h"

struct Attack {
    Network network;  // its images are the centres of the balls
    int32_t steps;
    float eps, alpha;
    float* point;     // (images, channels, height, width): the start, replaced by what the attack finds
};

// The memory holds the balls' centres, and then the values.
template <int Lanes>
class Block : Pass<Lanes> {
  public:
    Block(const Attack& attack, const Prepared& prepared, float* memory)
        : Base(prepared, memory + floats(prepared) - prepared.neurons() * Lanes), attack_(attack),
          center_(reinterpret_cast<Vec*>(memory)) {}

    static int64_t floats(const Prepared& prepared) {
        return (prepared.network.image.neurons() + prepared.neurons()) * Lanes;
    }

    // Take steps number `from` to `to` with the images from `first` on.
    void climb(int64_t first, int count, int from, int to) {
        this->read(attack_.network.x, first, count, center_);
        this->read(attack_.point, first, count, values_[0]);
        this->read_labels(first, count);
        for (int step = from; step < to; ++step) {
            this->forward();
            this->differentiate_loss(nullptr);
            for (int l = attack_.network.layers - 1; l > 0; --l) this->backward_in_place(l);
            this->backward(0, [this](int64_t k, Vec slope) { advance(k, slope); });
        }
        write(first, count);
    }

  private:
    using Base = Pass<Lanes>;
    using Vec = Vector<Lanes>;
    using Base::values_;

    void write(int64_t first, int count) {
        const auto* lanes = reinterpret_cast<const float*>(values_[0]);
        this->each_value(first, count, [&](int lane, int64_t neuron, int64_t at) {
            attack_.point[at] = lanes[neuron * Lanes + lane];
        });
    }

    // A step of one neuron of the image along the sign of its slope, back into its ball and into [0, 1].
    void advance(int64_t k, Vec slope) {
        Vec low = center_[k] - attack_.eps, high = center_[k] + attack_.eps;
        low = low < 0.0f ? Vec{} : low;
        high = high > 1.0f ? this->all(1) : high;
        Vec& value = values_[0][k];
        value += slope > 0.0f ? this->all(attack_.alpha) : slope < 0.0f ? this->all(-attack_.alpha) : Vec{};
        value = value < low ? low : value;
        value = value > high ? high : value;
    }

    const Attack& attack_;
    Vec* center_;
};
