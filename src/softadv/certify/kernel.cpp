// Back-substitution on a CPU: many linear forms of one image at once, one form in each SIMD lane.
//
// A form over an activation is one coefficient for each of its neurons. The coefficients of a block
// of forms are kept neuron by neuron, lanes contiguous, so that every rule below is the same few
// vector instructions for each neuron, whatever the layer's shape. Neurons are ordered height, width,
// channel. What a block does not touch is skipped: neurons outside its window (`Window`), and neurons
// that are certainly zero for this image (`live`).
//
// The relaxations and the rounding errors come in as numbers (relu.py, rounding.py); nothing is
// decided here. backsubstitution.py has the same rules for tensors on any device.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <new>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTile = 8;  // 8 outputs x 2 vectors fill half of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTile = 4;
#else
constexpr int kVectorBytes = 16, kTile = 4;
#endif
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

struct Plane {
    int32_t height, width, channels;
    int64_t neurons() const { return int64_t(height) * width * channels; }
};

}  // namespace

// One step of the network. Arrays "per image" are (images, neurons of the output). native.py has its twin.
// A ReLU whose lines are all zero passes nothing on: its neuron is not live.
template <class T>
struct Step {
    int32_t kind, inputs[2], kernel[2], stride[2], padding[2], dilation[2], groups;
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

namespace {

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
            for (int v = 0; v < V; ++v) c[v] = Vector<T>{};
        }
        return c;
    }
};

// out[t] += sum over i of weights[i][t] * coefs[i], for N outputs t.
template <class T, int V, int N>
inline void tile(const Vector<T>* const* coefs, const T* const* weights, int count, int64_t from, Vector<T>* out) {
    Vector<T> sum[N][V] = {};
    for (int i = 0; i < count; ++i) {
        const T* w = weights[i] + from;
        Vector<T> c[V];
        for (int v = 0; v < V; ++v) c[v] = coefs[i][v];
        for (int t = 0; t < N; ++t)
            for (int v = 0; v < V; ++v) sum[t][v] += c[v] * w[t];
    }
    for (int t = 0; t < N; ++t)
        for (int v = 0; v < V; ++v) out[t * V + v] += sum[t][v];
}

template <class T, int V>
inline void accumulate(const Vector<T>* const* coefs, const T* const* weights, int count, int64_t from, int64_t run,
                       Vector<T>* out) {
    for (int i = 0; i < count; i += kDepth) {
        const int some = std::min(kDepth, count - i);
        int64_t t = 0;
        for (; t + kTile <= run; t += kTile) tile<T, V, kTile>(coefs + i, weights + i, some, from + t, out + t * V);
        if constexpr (kTile > 4)
            for (; t + 4 <= run; t += 4) tile<T, V, 4>(coefs + i, weights + i, some, from + t, out + t * V);
        for (; t < run; ++t) tile<T, V, 1>(coefs + i, weights + i, some, from + t, out + t * V);
    }
}

// One block of forms of one image, on its way back to the input. A worker keeps one and uses it again.
template <class T, int V>
class Block {
  public:
    explicit Block(const Program<T>& program, std::vector<Vector<T>>& coefs, std::vector<uint8_t>& live)
        : program_(program), forms_(program.steps + 1) {
        int64_t neurons = 0;
        for (int a = 0; a <= program.steps; ++a) {
            forms_[a].plane = program.plane[a];
            forms_[a].coefs = coefs.data() + neurons * kMostVectors;
            forms_[a].live = live.data() + neurons;
            neurons += program.plane[a].neurons();
        }
    }

    void begin() {
        for (auto& f : forms_) f.window = {0, 0, 0, 0};
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
                case kConv: conv(step, out, in); break;
                case kScale: scale(step, out, in); break;
                case kFlatten: flatten(out, in); break;
                case kCopy: pass(out, in); break;
                case kAdd:
                    pass(out, in);
                    pass(out, forms_[step.inputs[1]]);
                    break;
                case kRelu: relu(step, out, in, row); break;
                case kMaxPool: max_pool(step, out, in, row); break;
            }
        }
        concretise(image);
    }

  private:
    // Call visit(neuron, channel) for every live neuron.
    template <class Visit>
    static void each(const Forms<T, V>& f, Visit visit) {
        for (int y = f.window.y0; y < f.window.y1; ++y)
            for (int x = f.window.x0; x < f.window.x1; ++x) {
                const int64_t first = f.at(y, x);
                for (int c = 0; c < f.plane.channels; ++c)
                    if (f.live[first + c]) visit(first + c, c);
            }
    }

    // Terms of the forms' constants: a few are summed as they are, then added to the total in double.
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
            for (int lane = 0; lane < V * Simd<T>::lanes; ++lane)
                block.total_[lane] += double(part[lane / Simd<T>::lanes][lane % Simd<T>::lanes]);
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

    void conv(const Step<T>& step, const Forms<T, V>& out, Forms<T, V>& in) {
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
        for (int y = reach.y0; y < reach.y1; ++y)
            for (int x = reach.x0; x < reach.x1; ++x)
                for (int c = 0; c < in.plane.channels; ++c) in.touch(in.at(y, x) + c);
        coefs_.resize(outs);
        weights_.resize(outs);
        for (int y = w.y0; y < w.y1; ++y)
            for (int x = w.x0; x < w.x1; ++x)
                for (int group = 0; group < step.groups; ++group) {
                    int count = 0;
                    for (int o = group * outs; o < (group + 1) * outs; ++o) {
                        const int64_t k = out.at(y, x) + o;
                        if (!out.live[k]) continue;
                        coefs_[count] = out.of(k);
                        weights_[count++] = step.weight + o * per_out;
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
                        for (int j = from; j < to; j += joined ? to - from : 1)
                            accumulate<T, V>(coefs_.data(), weights_.data(), count, (int64_t(i) * taps_x + j) * ins,
                                             joined ? int64_t(to - from) * ins : ins,
                                             in.of(in.at(ty, left + j * d) + group * ins));
                    }
                }
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
            const T* nothing[] = {step.lower_slope, step.upper_slope, step.upper_offset};
            if (std::all_of(nothing, nothing + 3, [&](const T* line) { return line[row + k] == 0; })) return;
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
    std::vector<const Vector<T>*> coefs_;
    std::vector<const T*> weights_;
    double total_[V * Simd<T>::lanes];
};

// The blocks of one worker; both sizes share their memory.
template <class T>
struct Worker {
    explicit Worker(const Program<T>& program)
        : coefs(neurons(program) * kMostVectors), live(neurons(program)), wide(program, coefs, live),
          narrow(program, coefs, live) {}

    static int64_t neurons(const Program<T>& program) {
        int64_t sum = 0;
        for (int a = 0; a <= program.steps; ++a) sum += program.plane[a].neurons();
        return sum;
    }

    std::vector<Vector<T>> coefs;
    std::vector<uint8_t> live;
    std::vector<int> asked;
    Block<T, kMostVectors> wide;
    Block<T, 1> narrow;
};

// Run work(worker, task) for every task on all threads. Returns 1 where memory ran out.
template <class T, class Work>
int32_t share(const Program<T>& program, int64_t tasks, Work work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto run = [&] {
        try {
            Worker<T> worker(program);
            for (int64_t task = next++; task < tasks && !failed; task = next++) work(worker, task);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    std::vector<std::thread> others;
    const int64_t wanted = std::min<int64_t>(program.threads, tasks);
    try {
        for (int64_t i = 1; i < wanted; ++i) others.emplace_back(run);
    } catch (...) {  // fewer threads than asked for do the same work
    }
    run();
    for (auto& thread : others) thread.join();
    return failed;
}

// Bounds of neurons number `first` to `last` of the asked channels at one position: each is two lanes.
template <class T, int V>
void bound_neurons(Block<T, V>& block, int activation, int image, int64_t position, const std::vector<int>& asked,
                   int first, int last, T* lower, T* upper) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    const int y = position / f.plane.width, x = position % f.plane.width;
    f.include({y, y + 1, x, x + 1});
    for (int i = first; i < last; ++i) {
        Vector<T>* c = f.touch(f.at(y, x) + asked[i]);
        for (int sign = 0; sign < 2; ++sign) {
            const int lane = 2 * (i - first) + sign;
            c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = sign ? -1 : 1;
        }
    }
    block.substitute(activation, image);
    for (int i = first; i < last; ++i) {
        const int64_t k = image * f.plane.neurons() + f.at(y, x) + asked[i];
        lower[k] = block.least(2 * (i - first));
        upper[k] = -block.least(2 * (i - first) + 1);  // the least of the negative, negated
    }
}

template <class T>
int32_t bounds(const Program<T>& program, int activation, const uint8_t* asked, T* lower, T* upper) {
    const Plane plane = program.plane[activation];
    const int64_t positions = int64_t(plane.height) * plane.width;
    const int per_block = kMostVectors * Simd<T>::lanes / 2;
    const int64_t blocks = (plane.channels + per_block - 1) / per_block;
    return share(program, program.images * positions * blocks, [&](Worker<T>& worker, int64_t task) {
        const int64_t place = task / blocks;  // image and position
        worker.asked.clear();
        for (int c = 0; c < plane.channels; ++c)
            if (asked[place * plane.channels + c]) worker.asked.push_back(c);
        const int count = worker.asked.size(), first = task % blocks * per_block;
        const int last = std::min(count, first + per_block);
        if (first >= last) return;
        auto run = [&](auto& block) {
            bound_neurons(block, activation, place / positions, place % positions, worker.asked, first, last, lower,
                          upper);
        };
        last - first > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

template <class T, int V>
void bound_forms(Block<T, V>& block, int activation, int image, const T* coefs, int count, T* least) {
    block.begin();
    Forms<T, V>& f = block.forms(activation);
    f.include({0, f.plane.height, 0, f.plane.width});
    for (int64_t k = 0; k < f.plane.neurons(); ++k) {
        Vector<T>* c = f.touch(k);
        for (int lane = 0; lane < count; ++lane)
            c[lane / Simd<T>::lanes][lane % Simd<T>::lanes] = coefs[lane * f.plane.neurons() + k];
    }
    block.substitute(activation, image);
    for (int lane = 0; lane < count; ++lane) least[lane] = block.least(lane);
}

template <class T>
int32_t minimum(const Program<T>& program, int activation, int rows, const T* coefs, T* least) {
    const int per_block = kMostVectors * Simd<T>::lanes;
    const int64_t blocks = (rows + per_block - 1) / per_block;
    return share(program, program.images * blocks, [&](Worker<T>& worker, int64_t task) {
        const int image = task / blocks, first = task % blocks * per_block, count = std::min(per_block, rows - first);
        const int64_t row = int64_t(image) * rows + first;
        const T* from = coefs + row * program.plane[activation].neurons();
        auto run = [&](auto& block) { bound_forms(block, activation, image, from, count, least + row); };
        count > per_block / 2 ? run(worker.wide) : run(worker.narrow);
    });
}

}  // namespace

// What native.py calls. Each returns 0, or 1 where memory ran out.
//
// bounds: of the neurons of an activation that are asked for, bool (images, neurons); written into lower
// and upper, (images, neurons). minimum: of forms (images, rows, neurons) over an activation, (images, rows).
extern "C" {
int32_t bounds_float(const Program<float>* program, int32_t activation, const uint8_t* asked, float* lower,
                     float* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t bounds_double(const Program<double>* program, int32_t activation, const uint8_t* asked, double* lower,
                      double* upper) {
    return bounds(*program, activation, asked, lower, upper);
}
int32_t minimum_float(const Program<float>* program, int32_t activation, int32_t rows, const float* coefs,
                      float* least) {
    return minimum(*program, activation, rows, coefs, least);
}
int32_t minimum_double(const Program<double>* program, int32_t activation, int32_t rows, const double* coefs,
                       double* least) {
    return minimum(*program, activation, rows, coefs, least);
}
}
