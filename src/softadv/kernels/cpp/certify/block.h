// A block of linear forms, and how each operator takes it one step back towards the input.

#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "forms.h"

// The used neurons (Step::used) of an activation of one image, in a list.
struct UsedNeurons {
    int image = -1;
    int channels = 0;
    std::vector<int32_t> number;
    std::vector<int32_t> first;  // for each pixel, where its neurons begin in `number`; and last, where they all end

    // Where a pixel's neurons begin in `number`. neuron: the pixel's first.
    int32_t from(int64_t neuron) const { return first[neuron / channels]; }

    void list(int new_image, const uint8_t* used, const Plane& plane) {
        image = new_image;
        channels = plane.channels;
        number.clear();
        first.clear();
        for (int64_t k = 0; k < plane.neurons(); ++k) {
            if (k % channels == 0) first.push_back(number.size());
            if (used[k]) number.push_back(k);
        }
        first.push_back(number.size());
    }
};

// One block of forms of one image, on its way back to the input. A worker keeps one and uses it again.
template <class T, int V>
class Block {
  public:
    explicit Block(const Program<T>& program, std::vector<Vector<T>>& coefs, std::vector<uint8_t>& live,
                   std::vector<int32_t>& numbers)
        : program_(program), forms_(program.steps + 1), used_(program.steps) {
        int64_t neurons = 0;
        for (int a = 0; a <= program.steps; ++a) {
            forms_[a].plane = program.plane[a];
            forms_[a].coefs = coefs.data() + neurons * kMostVectors;
            forms_[a].live = live.data() + neurons;
            forms_[a].numbers = numbers.data() + neurons;
            neurons += program.plane[a].neurons();
        }
    }

    void begin() {
        for (auto& f : forms_) {
            f.window = {0, 0, 0, 0};
            f.count = 0;
        }
        std::fill(std::begin(total_), std::end(total_), 0.0);
    }

    Forms<T, V>& forms(int activation) { return forms_[activation]; }
    T least(int lane) const { return T(total_[lane]); }

    // Substitute back from an activation to the input, and take the least values over the box.
    void substitute(int activation, int image) {
        for (int a = activation; a > 0; --a) {
            Forms<T, V>& out = forms_[a];
            if (out.window.empty()) continue;
            const Step<T>& step = program_.step[a - 1];
            const int64_t row = image * out.plane.neurons();
            Forms<T, V>& in = forms_[step.inputs[0]];
            add_constants(step, out, row);
            switch (step.kind) {
                case kConv: conv(step, out, in, image); break;
                case kScale: scale(step, out, in); break;
                case kFlatten: flatten(out, in); break;
                case kCopy: pass(out, in); break;
                case kAdd:
                    pass(out, in);
                    pass(out, forms_[step.inputs[1]]);
                    break;
                case kRelu: relu(step, out, in, row); break;
                case kMaxPool: max_pool(step, out, in, row); break;
                case kGather: gather(step, out, in); break;
            }
        }
        concretise(image);
    }

  private:
    // Call visit(neuron, channel) for every live neuron.
    template <class Visit>
    static void each(const Forms<T, V>& f, Visit visit) {
        const unsigned channels = f.plane.channels, mask = channels & (channels - 1) ? 0 : channels - 1;
        for (int i = 0; i < f.count; ++i) {
            const unsigned k = f.numbers[i];
            visit(int64_t(k), int(mask ? k & mask : k % channels));
        }
    }

    // A sum of terms of the forms' constants: kAddends of them in T, which are then added to the total in double.
    struct Sum {
        Vector<T> part[V] = {};
        int terms = 0;
        Block& block;

        explicit Sum(Block& block) : block(block) {}
        ~Sum() { carry(); }
        void count() {
            if (++terms == kAddends) carry();
        }
        void carry() {
            T parts[V * Simd<T>::lanes];  // a plain array: the compiler converts it as a vector
            std::memcpy(parts, part, sizeof parts);
            for (int lane = 0; lane < V * Simd<T>::lanes; ++lane) block.total_[lane] += double(parts[lane]);
            for (auto& p : part) p = Vector<T>{};
            terms = 0;
        }
    };

    void add_constants(const Step<T>& step, const Forms<T, V>& out, int64_t row) {
        if (!step.bias && !step.error) return;
        Sum sum(*this);
        each(out, [&](int64_t k, int channel) {
            const T bias = step.bias ? step.bias[channel] : T(0), error = step.error ? step.error[row + k] : T(0);
            const Vector<T>* c = out.of(k);
            for (int v = 0; v < V; ++v) sum.part[v] += c[v] * bias - (c[v] < 0 ? -c[v] : c[v]) * error;
            sum.count();
        });
    }

    // The coefficients of an output, times its weights, are added to those of the inputs that it reads.
    void conv(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in, int image) {
        const int taps_x = step.kernel[1], outs = out.plane.channels / step.groups;
        const int ins = in.plane.channels / step.groups;
        const int64_t per_out = int64_t(step.kernel[0]) * taps_x * ins;
        const bool joined = step.groups == 1 && step.dilation[1] == 1;  // a row of taps is one run of memory
        auto first = [&](int axis, int at) { return at * step.stride[axis] - step.padding[axis]; };
        auto last = [&](int axis, int at) { return first(axis, at) + (step.kernel[axis] - 1) * step.dilation[axis]; };
        const Window& w = out.window;
        const Window reach{std::max(0, first(0, w.y0)), std::min(in.plane.height, last(0, w.y1 - 1) + 1),
                           std::max(0, first(1, w.x0)), std::min(in.plane.width, last(1, w.x1 - 1) + 1)};
        if (reach.empty()) return;
        in.include(reach);
        const bool listed = step.used && joined;
        const UsedNeurons* used = listed ? &used_by(step, in.plane, image) : nullptr;
        for (int y = reach.y0; y < reach.y1; ++y)
            for (int x = reach.x0; x < reach.x1; ++x) {
                const int64_t k = in.at(y, x);
                if (used)
                    for (int i = used->from(k); i < used->from(k + in.plane.channels); ++i) in.touch(used->number[i]);
                else
                    for (int c = 0; c < in.plane.channels; ++c) in.touch(k + c);
            }
        coefs_.resize(outs + 1);
        weights_.resize(outs + 1);
        for (int y = w.y0; y < w.y1; ++y)
            for (int x = w.x0; x < w.x1; ++x)
                for (int group = 0; group < step.groups; ++group) {
                    int count = 0;
                    for (int o = group * outs; o < (group + 1) * outs; ++o) {
                        const int64_t k = out.at(y, x) + o;
                        coefs_[count] = out.of(k);
                        weights_[count] = step.weight + o * per_out;
                        count += out.live[k];
                    }
                    if (!count) continue;
                    // The taps that fall inside the plane.
                    const int left = first(1, x), d = step.dilation[1];
                    const int from = left < 0 ? (-left + d - 1) / d : 0;
                    const int to = std::min(taps_x, left >= in.plane.width ? 0 : (in.plane.width - 1 - left) / d + 1);
                    if (from >= to) continue;
                    for (int i = 0; i < step.kernel[0]; ++i) {
                        const int ty = first(0, y) + i * step.dilation[0];
                        if (ty < 0 || ty >= in.plane.height) continue;
                        for (int j = from; j < to; j += joined ? to - from : 1) {
                            const int64_t first = in.at(ty, left + j * d) + group * ins;
                            const int64_t run = joined ? int64_t(to - from) * ins : ins;
                            const int64_t weight = (int64_t(i) * taps_x + j) * ins - first;
                            if (used) {
                                const int32_t* number = used->number.data() + used->from(first);
                                accumulate<T, V>(coefs_.data(), weights_.data(), count, weight,
                                                 used->from(first + run) - used->from(first),
                                                 [=](int64_t t) { return number[t]; }, in.coefs);
                            } else {
                                accumulate<T, V>(coefs_.data(), weights_.data(), count, weight, run,
                                                 [=](int64_t t) { return first + t; }, in.coefs);
                            }
                        }
                    }
                }
    }

    // The used inputs of a convolution, listed once for an image.
    const UsedNeurons& used_by(const Step<T>& step, const Plane& plane, int image) {
        UsedNeurons& found = used_[&step - program_.step];
        if (found.image != image) found.list(image, step.used + image * plane.neurons(), plane);
        return found;
    }

    void scale(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in) {
        in.include(out.window);
        each(out, [&](int64_t k, int) {
            Vector<T>* to = in.touch(k);
            for (int v = 0; v < V; ++v) to[v] += out.of(k)[v] * step.weight[k];
        });
    }

    void flatten(const Forms<T, V>& out, Forms<T, V>& in) {
        in.include({0, in.plane.height, 0, in.plane.width});
        const int pixels = in.plane.height * in.plane.width;
        each(out, [&](int64_t k, int) {  // PyTorch orders channel, height, width
            Vector<T>* to = in.touch(k % pixels * in.plane.channels + k / pixels);
            for (int v = 0; v < V; ++v) to[v] += out.of(k)[v];
        });
    }

    void gather(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in) {
        in.include({0, in.plane.height, 0, in.plane.width});
        each(out, [&](int64_t k, int) {
            if (step.choice[k] < 0) return;
            Vector<T>* to = in.touch(step.choice[k]);
            for (int v = 0; v < V; ++v) to[v] += out.of(k)[v];
        });
    }

    void pass(const Forms<T, V>& out, Forms<T, V>& in) {
        in.include(out.window);
        each(out, [&](int64_t k, int) {
            Vector<T>* to = in.touch(k);
            for (int v = 0; v < V; ++v) to[v] += out.of(k)[v];
        });
    }

    void relu(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in, int64_t row) {
        in.include(out.window);
        Sum sum(*this);
        each(out, [&](int64_t k, int) {
            const T* lines[] = {step.lower_slope, step.upper_slope, step.lower_offset, step.upper_offset};
            auto zero = [&](const T* line) { return !line || line[row + k] == 0; };
            if (std::all_of(lines, lines + 4, zero)) return;
            follow_lines(step, row + k, out.of(k), in.touch(k), sum);
        });
    }

    void max_pool(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in, int64_t row) {
        in.include({0, in.plane.height, 0, in.plane.width});
        Sum sum(*this);
        each(out, [&](int64_t k, int) {
            follow_lines(step, row + k, out.of(k), in.touch(step.choice[row + k]), sum);
        });
    }

    // A form takes the lower line where its coefficient is positive and the upper line where it is negative.
    static void follow_lines(const Step<T>& step, int64_t k, const Vector<T>* from, Vector<T>* to, Sum& sum) {
        const T ls = step.lower_slope[k], us = step.upper_slope[k], uo = step.upper_offset[k];
        const T lo = step.lower_offset ? step.lower_offset[k] : T(0);
        for (int v = 0; v < V; ++v) {
            const auto negative = from[v] < 0;
            to[v] += from[v] * (negative ? Vector<T>{} + us : Vector<T>{} + ls);
            sum.part[v] += from[v] * (negative ? Vector<T>{} + uo : Vector<T>{} + lo);
        }
        sum.count();
    }

    void concretise(int image) {
        const Forms<T, V>& f = forms_[0];
        const int64_t row = image * f.plane.neurons();
        Sum sum(*this);
        each(f, [&](int64_t k, int) {
            const T center = program_.center[row + k], radius = program_.radius[row + k];
            for (int v = 0; v < V; ++v) {
                const Vector<T> c = f.of(k)[v];
                sum.part[v] += c * center - (c < 0 ? -c : c) * radius;
            }
            sum.count();
        });
    }

    const Program<T>& program_;
    std::vector<Forms<T, V>> forms_;
    std::vector<UsedNeurons> used_;
    std::vector<const Vector<T>*> coefs_;
    std::vector<const T*> weights_;
    double total_[V * Simd<T>::lanes];
};
