// PGD on one block of images: a forward pass, a backward pass and a step along the sign, repeated.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "pass.h"
#include "workers.h"

struct Attack {
    Network network;        // its images are the centres of the balls
    int32_t steps;
    int32_t further;        // an image stops this many steps after the first that fools the network; -1: take all steps
    float eps, alpha;
    float lowest, highest;  // pixel
    float* point;           // (images, channels, height, width): the start, replaced by what the attack finds
};

// The schedule: which lane attacks which image at which step. All lanes are busy to the end (McNaughton's wrap-around
// rule). The images' steps are put in a row and cut into stretches of one length, one per lane. If an image is cut, its
// first steps are at the beginning of the later lane's stretch, and its last steps at the end of the earlier lane's.
struct Schedule {
    Schedule(const Attack& attack, int lanes) : steps(attack.steps), work(int64_t(attack.network.images) * steps) {
        const auto parts = [this](int64_t size) { return (work + size - 1) / size; };
        length = std::max<int64_t>(steps, parts(int64_t(attack.network.threads) * lanes));
        workers = parts(length * lanes);
    }

    // The image in a lane at a time, or -1. Lanes are counted over all workers.
    int64_t image(int64_t lane, int64_t time) const {
        const int64_t at = lane * length + time;
        return time >= 0 && time < length && at < work ? at / steps : -1;
    }

    // Whether an image goes beyond the stretch of a lane: its first steps are the next lane's.
    bool is_cut(int64_t lane, int64_t image) const { return (image + 1) * steps > (lane + 1) * length; }

    int64_t steps, work;
    int64_t length;  // steps of a lane
    int workers;
};

// The memory holds the balls' centres, and then the values.
template <int Lanes>
class AttackBlock : Pass<Lanes> {
  public:
    AttackBlock(const Attack& attack, const Prepared& prepared, float* memory)
        : Base(prepared, memory + floats(prepared) - prepared.neurons() * Lanes), attack_(attack),
          center_(reinterpret_cast<Vec*>(memory)) {
        std::fill(center_, center_ + attack.network.image.neurons(), Vec{});
        std::fill(values_[0], values_[0] + attack.network.image.neurons(), Vec{});
    }

    static int64_t floats(const Prepared& prepared) {
        return (prepared.network.image.neurons() + prepared.neurons()) * Lanes;
    }

    // All steps of a worker's lanes. left: for each worker, set when the first image of its first lane is handed on.
    void climb(const Schedule& schedule, int worker, Event* left) {
        for (int64_t time = 0;; ++time) {
            change_images(schedule, worker, time, left);
            if (time == schedule.length) return;
            this->forward();
            this->differentiate_loss(nullptr);
            for (int l = attack_.network.layers - 1; l > 0; --l) this->backward_in_place(l);
            this->backward(0, [this](int64_t k, Vec gradient) { advance(k, gradient, this->all(attack_.alpha)); });
        }
    }

    // The same for images that stop early: a lane whose image is done takes the next image that is still free.
    void climb_until_fooled(std::atomic<int64_t>& next) {
        int64_t image[Lanes], taken[Lanes] = {}, further[Lanes] = {};
        std::fill(image, image + Lanes, -1);
        for (bool any = true; any;) {
            Seats<Lanes> entering, stopping, arriving;
            for (int lane = 0; lane < Lanes; ++lane)
                if (image[lane] < 0) {
                    const int64_t free = next < attack_.network.images ? next++ : attack_.network.images;
                    if (free >= attack_.network.images) continue;
                    image[lane] = free, taken[lane] = 0, further[lane] = attack_.further;
                    entering.add(lane, free);
                }
            enter(entering);
            this->forward();
            Vec step = {};
            any = false;
            for (int lane = 0; lane < Lanes; ++lane) {
                if (image[lane] < 0) continue;
                any = true;
                if (this->is_fooled(lane) && further[lane]-- == 0)
                    stopping.add(lane, image[lane]);
                else {
                    step[lane] = attack_.alpha;
                    if (++taken[lane] == attack_.steps) arriving.add(lane, image[lane]);
                }
            }
            this->write(values_[0], stopping, attack_.point);
            if (any) {
                this->differentiate_loss(nullptr);
                for (int l = attack_.network.layers - 1; l > 0; --l) this->backward_in_place(l);
                this->backward(0, [this, step](int64_t k, Vec gradient) { advance(k, gradient, step); });
            }
            this->write(values_[0], arriving, attack_.point);
            for (const Seats<Lanes>* done : {&stopping, &arriving})
                for (int i = 0; i < done->count; ++i) image[done->lane[i]] = -1;
        }
    }

  private:
    using Base = Pass<Lanes>;
    using Vec = Vector<Lanes>;
    using Base::values_;

    // Write the images whose steps in a lane are done, and read those that come after them.
    void change_images(const Schedule& schedule, int worker, int64_t time, Event* left) {
        Seats<Lanes> leaving, entering;
        bool waits = false;  // for the next worker to have made the first steps
        for (int lane = 0; lane < Lanes; ++lane) {
            const int64_t number = int64_t(worker) * Lanes + lane;
            const int64_t before = schedule.image(number, time - 1), now = schedule.image(number, time);
            if (before == now) continue;
            if (before >= 0) leaving.add(lane, before);
            if (now >= 0) entering.add(lane, now);
            waits = lane == Lanes - 1 && schedule.is_cut(number, now);
        }
        this->write(values_[0], leaving, attack_.point);
        if (leaving.count && leaving.lane[0] == 0) left[worker].happen();
        if (waits) left[worker + 1].wait();
        enter(entering);
    }

    void enter(const Seats<Lanes>& entering) {
        this->read(attack_.network.x, entering, center_);
        this->read(attack_.point, entering, values_[0]);
        this->read_labels(entering);
    }

    // A step of one neuron of the image along the sign of its gradient, back into its ball and the range of the pixels.
    void advance(int64_t k, Vec gradient, Vec step) {
        Vec low = center_[k] - attack_.eps, high = center_[k] + attack_.eps;
        low = low < attack_.lowest ? this->all(attack_.lowest) : low;
        high = high > attack_.highest ? this->all(attack_.highest) : high;
        Vec& value = values_[0][k];
        value += gradient > 0.0f ? step : gradient < 0.0f ? -step : Vec{};
        value = value < low ? low : value;
        value = value > high ? high : value;
    }

    const Attack& attack_;
    Vec* center_;
};
