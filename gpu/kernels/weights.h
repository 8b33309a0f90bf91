// A table of weights in device memory: how much of which source pixels goes into each kept pixel, along x and along y. forebay_resize_weights
// writes it, forebay_crop_resize reads it.
//
// Weights are those of the CPU to the last bit, in fixed point and made from float64 by the same steps; so are the pixels. One thread a row
// of the table, as many devices are slow in float64.
#pragma once

#include "sample.h"

enum Filter : u32 { BILINEAR, BICUBIC };

// Bits behind a weight's point.
constexpr int BITS = 14;
constexpr i32 ONE = 1 << BITS;

// Source pixels `first` and `count` - 1 behind it, and the weights of these.
struct Row {
    Global<u32> head;
    Global<i16> weights;

    // Of kept pixel `number` along an axis.
    ANYWHERE Row(const Sample& sample, int axis, u64 number) {
        u64 bytes = row_bytes(sample, axis);
        u64 before = axis == 0 ? 0 : sample.count[0] * row_bytes(sample, 0);
        head = Global<u32>{sample.weights.address + before + number * bytes};
        weights = head.from(2).as<i16>();
    }

    // Two words, and room for weights; a multiple of 8 as `taps` is one of 4.
    static ANYWHERE u64 row_bytes(const Sample& sample, int axis) { return 8 + 2 * u64(of(sample.taps, axis)); }

    ANYWHERE u32 first() const { return head.load(0); }
    ANYWHERE u32 count() const { return head.load(1); }
};

// Which source pixels lie under the kernel of kept pixel `number`: Pillow's rounding of the ends, cut at the region's edges.
struct Reach {
    u32 first;
    u32 count;
    double centre;
    double stretch;

    ANYWHERE Reach(const Sample& sample, int axis, u32 number, u32 filter) {
        double step = of(sample.step, axis), length = of(sample.region, axis);
        // A kernel that shrinks a picture is as wide as what it shrinks.
        stretch = step > 1 ? step : 1;
        double support = (filter == BICUBIC ? 2 : 1) * stretch;
        centre = of(sample.start, axis) + (number + 0.5) * step;
        double low = centre - support + 0.5, high = centre + support + 0.5;
        first = u32(low < 0 ? 0 : low < length - 1 ? low : length - 1);
        u32 end = u32(high < first + 1.0 ? first + 1.0 : high < length ? high : length);
        u32 taps = of(sample.taps, axis);
        count = end - first < taps ? end - first : taps;
    }
};
