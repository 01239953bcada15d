// The weights' gradients of the mean loss on a CPU: many images at once, one in each SIMD lane.
//
// Blocks of images go forwards and backwards as in the attack (pass.h). At each layer they add their contribution to
// the gradients of its weights (weight_gradients.h).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "pass.h"
#include "weight_gradients.h"
#include "workers.h"

namespace {

struct Update {
    Network network;
    float* loss;    // receives the mean over the images, or over the pairs
    int32_t pairs;  // whether the images are pairs of an image and its attacked version, for the TRADES loss
    float weight;   // the TRADES loss's weight of the divergence

    // Of the mean.
    int terms() const { return pairs ? network.images / 2 : network.images; }
};

// Images `first` to `first + count - 1` in a block of `width` lanes.
struct Part {
    int64_t first;
    int count, width;
};

// Wide blocks, and a narrow one at the end if the rest fits; only narrow blocks if there are more threads than that.
std::vector<Part> parts(const Network& network) {
    std::vector<Part> found;
    const int width = int64_t(kWide) * network.threads > network.images ? kNarrow : kWide;
    for (int64_t first = 0; first < network.images; first += found.back().count) {
        const int count = std::min<int64_t>(width, network.images - first);
        found.push_back({first, count, count <= kNarrow ? kNarrow : kWide});
    }
    return found;
}

// The layout of a worker's gradients: for each layer those of its weights, in rows of whole vectors, and of its biases.
class Places {
  public:
    explicit Places(const Prepared& prepared) {
        for (const auto& conv : prepared.convs) {
            begin_.push_back(floats);
            stride_.push_back(conv ? whole(conv->forward.depth) : 0);
            longest = std::max(longest, stride_.back());
            if (conv) floats += stride_.back() * conv->out.channels + whole(conv->out.channels);
        }
    }

    Rows weights(int l, float* memory) const { return {memory + begin_[l], stride_[l]}; }
    float* biases(int l, float* memory, int outputs) const { return memory + begin_[l] + stride_[l] * outputs; }

    int64_t floats = 0, longest = 0;

  private:
    // Room for so many floats in whole vectors.
    static int64_t whole(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

    std::vector<int64_t> begin_, stride_;
};

// A block of images that adds to the gradients. turned: scratch memory for Lanes of the longest rows.
template <int Lanes>
class UpdateBlock : Pass<Lanes> {
  public:
    UpdateBlock(const Update& update, const Prepared& prepared, const Places& places, float* memory, float* turned,
          float* gradients)
        : Pass<Lanes>(prepared, memory), update_(update), places_(places), turned_(turned), gradients_(gradients) {}

    // Add what images `first` to `first + count - 1` contribute; returns the sum of their losses.
    double differentiate(int64_t first, int count) {
        Seats<Lanes> seats;
        // Lanes that are left over repeat images, pairs as pairs, and have no share in the mean. Zeros would not do: where
        // the network overflows on them, 0 times infinity is NaN.
        for (int lane = 0; lane < Lanes; ++lane) seats.add(lane, first + lane % count);
        this->read(network_.x, seats, values_[0]);
        this->read_labels(seats);
        this->forward();
        float losses[Lanes];
        if (update_.pairs)
            this->differentiate_pairs(update_.weight, losses);
        else
            this->differentiate_loss(losses);
        Vector<Lanes> share;
        for (int lane = 0; lane < Lanes; ++lane) share[lane] = lane < count ? 1.0f / update_.terms() : 0.0f;
        for (int c = 0; c < this->classes(); ++c) values_.back()[c] *= share;
        int lowest = 0;  // the first layer whose gradient is requested
        while (!asked(lowest)) ++lowest;
        for (int l = network_.layers - 1; l >= lowest; --l) {
            if (asked(l)) add(l);
            if (l > lowest) this->backward_in_place(l);
        }
        double sum = 0;
        for (int lane = 0; lane < count; ++lane) sum += losses[lane];
        return sum;
    }

  private:
    using Pass<Lanes>::network_;
    using Pass<Lanes>::values_;

    bool asked(int l) const {
        return l == network_.layers || network_.layer[l].weight_gradient || network_.layer[l].bias_gradient;
    }

    void add(int l) {
        const Conv& conv = *this->prepared_.convs[l];
        const Rows rows = places_.weights(l, gradients_);
        const Layer& layer = network_.layer[l];
        const bool linear = conv.in.neurons() == conv.forward.depth && !layer.padding[0] && !layer.padding[1];
        if (layer.weight_gradient) {
            if (linear)
                add_linear<Lanes>(conv, values_[l], values_[l + 1], turned_, rows);
            else
                add_convolution<Lanes>(conv, values_[l], values_[l + 1], rows);
        }
        if (layer.bias_gradient)
            add_biases<Lanes>(conv.out, values_[l + 1], places_.biases(l, gradients_, conv.out.channels));
    }

    const Update& update_;
    const Places& places_;
    float* const turned_;
    float* const gradients_;
};

// One worker's memory and its sums.
class Worker {
  public:
    Worker(const Update& update, const Prepared& prepared, const Places& places)
        : gradients_(places.floats), turned_(places.longest * kWide), values_(prepared.neurons() * kWide),
          wide_(update, prepared, places, values_.get(), turned_.get(), gradients_.get()),
          narrow_(update, prepared, places, values_.get(), turned_.get(), gradients_.get()), floats_(places.floats) {}

    void differentiate(const std::vector<Part>& parts, size_t from, size_t to) {
        std::fill(gradients_.get(), gradients_.get() + floats_, 0.0f);
        for (size_t b = from; b < to; ++b)
            loss_ += parts[b].width == kWide ? wide_.differentiate(parts[b].first, parts[b].count)
                                             : narrow_.differentiate(parts[b].first, parts[b].count);
    }

    float* gradients() const { return gradients_.get(); }
    double loss() const { return loss_; }

  private:
    const Memory gradients_, turned_, values_;
    UpdateBlock<kWide> wide_;
    UpdateBlock<kNarrow> narrow_;
    const int64_t floats_;
    double loss_ = 0;
};

using Workers = std::vector<std::unique_ptr<Worker>>;

// Add the workers' gradients of a layer, in the workers' order, and write them in PyTorch's layout.
void hand_over(const Layer& layer, int l, const Conv& conv, const Places& places, const Workers& workers) {
    const int outputs = conv.out.channels;
    const int64_t inputs = conv.forward.depth, taps = layer.taps, channels = inputs / taps;
    const Rows sum = places.weights(l, workers[0]->gradients());
    float* const biases = places.biases(l, workers[0]->gradients(), outputs);
    for (size_t w = 1; w < workers.size(); ++w) {
        const Rows more = places.weights(l, workers[w]->gradients());
        const float* other = places.biases(l, workers[w]->gradients(), outputs);
        for (int64_t k = 0; k < outputs * sum.stride; ++k) sum.first[k] += more.first[k];
        for (int o = 0; o < outputs; ++o) biases[o] += other[o];
    }
    if (float* to = layer.weight_gradient)
        for (int o = 0; o < outputs; ++o)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t tap = 0; tap < taps; ++tap) *to++ = sum[o][tap * channels + c];
    if (layer.bias_gradient) std::copy(biases, biases + outputs, layer.bias_gradient);
}

}  // namespace

// Called by kernels/weight_gradients.py: writes the requested gradients, and the mean loss.
// Returns 0, or 1 where memory ran out.
extern "C" int32_t differentiate(const Update* update) {
    try {
        const Network& network = update->network;
        const Prepared prepared(network);
        const Places places(prepared);
        const std::vector<Part> blocks = parts(network);
        const int count = std::min<int64_t>(network.threads, blocks.size());
        Workers workers;
        for (int i = 0; i < count; ++i) workers.emplace_back(new Worker(*update, prepared, places));
        // Each worker has fixed blocks, so that sums do not depend on which thread is faster.
        share_out(count, [&](int i) {
            workers[i]->differentiate(blocks, blocks.size() * i / count, blocks.size() * (i + 1) / count);
        });
        double loss = 0;
        for (const auto& worker : workers) loss += worker->loss();
        *update->loss = loss / update->terms();
        for (int l = 0; l < network.layers; ++l)
            if (prepared.convs[l]) hand_over(network.layer[l], l, *prepared.convs[l], places, workers);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
