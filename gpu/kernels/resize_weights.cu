// The weights of a batch's resizes.
#include "weights.h"

struct ResizeWeightsArgs {
    Global<Sample> samples;
    u64 images;
    u32 filter;
    // Kept pixels along an axis, at most.
    u32 longest;
};

// The kernel's value at source pixel `tap` of its reach.
ANYWHERE double kernel(const Reach& reach, u32 tap, u32 filter) {
    double x = (double(reach.first) + double(tap) - reach.centre + 0.5) / reach.stretch;
    x = x < 0 ? -x : x;
    if (filter == BILINEAR) return x < 1 ? 1 - x : 0;
    // Keys' cubic with a = -0.5.
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// Ties go away from zero.
ANYWHERE i32 rounded(double value) {
    i32 whole = i32(value);
    double rest = value - whole;
    return whole + (rest >= 0.5) - (rest <= -0.5);
}

// They add up to ONE to the last bit, so that a plain area keeps its colour: what rounding leaves goes to the largest.
ANYWHERE void write_row(const Row& row, const Reach& reach, u32 filter) {
    row.head.store(0, reach.first);
    row.head.store(1, reach.count);
    double sum = 0;
    ROLLED for (u32 tap = 0; tap < reach.count; tap++) sum += kernel(reach, tap, filter);
    // A pixel between kernels' reaches takes the nearest source pixel.
    bool none = sum < 2.220446049250313e-16 && sum > -2.220446049250313e-16;
    i32 left = ONE, largest = 0;
    u32 where = 0;
    ROLLED for (u32 tap = 0; tap < reach.count; tap++) {
        i32 weight = none ? 0 : rounded(kernel(reach, tap, filter) / sum * ONE);
        row.weights.store(tap, i16(weight));
        left -= weight;
        if (tap == 0 || weight > largest) {
            largest = weight;
            where = tap;
        }
    }
    row.weights.store(where, i16(largest + left));
}

KERNEL(resize_weights, ResizeWeightsArgs) {
    for (u64 image = thread_z(); image < args.images; image += threads_z()) {
        Sample sample = args.samples.load(image);
        for (u64 axis = thread_y(); axis < 2; axis += threads_y()) {
            for (u64 number = thread_x(); number < of(sample.count, int(axis)); number += threads_x()) {
                write_row(Row(sample, int(axis), number), Reach(sample, int(axis), u32(number), args.filter), args.filter);
            }
        }
    }
}

EFFECTS(resize_weights, ResizeWeightsArgs) {
    effects.reads(args.samples.address, args.images * sizeof(Sample));
    for (u64 image = 0; image < args.images; image++) {
        Sample sample = args.samples.load(image);
        for (int axis = 0; axis < 2; axis++) {
            for (u32 number = 0; number < of(sample.count, axis); number++) {
                u64 weights = Reach(sample, axis, number, args.filter).count;
                effects.writes(Row(sample, axis, number).head.address, 8 + 2 * weights);
            }
        }
    }
}
