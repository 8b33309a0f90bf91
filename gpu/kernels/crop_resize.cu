// A batch from parts of uint8 pictures, resized with antialiasing: two passes, rounded to bytes in between, as on the CPU.
//
// A thread makes one pixel and keeps nothing between the passes: each source pixel under its kernel is multiplied once.
#include "weights.h"

struct CropResizeArgs {
    Output out;
    Global<Sample> samples;
    u64 images;
    u32 filter;
};

ANYWHERE u8 cut(i32 sum) {
    sum >>= BITS;
    return u8(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// One direction: a row of weights and the bytes from one source pixel to the next.
struct Pass {
    Row row;
    u64 step;

    ANYWHERE Pass(const Sample& sample, int axis, const Kept& kept, u64 channels)
        : row(sample, axis, of(kept.at, axis)), step(axis == 0 ? channels : sample.stride) {}
};

// The weighted sum along `first` for each tap of `second`, cut to bytes, and the weighted sum of these.
template <int channels>
ANYWHERE void mix(Global<u8> from, const Pass& first, const Pass& second, u8 (&pixel)[channels]) {
    i32 sums[channels];
    UNROLL for (int channel = 0; channel < channels; channel++) sums[channel] = ONE / 2;
    u32 near_count = first.row.count(), far_count = second.row.count();
    Global<u8> corner = from.from(first.row.first() * first.step + second.row.first() * second.step);
    ROLLED for (u32 far = 0; far < far_count; far++) {
        Global<u8> at = corner.from(far * second.step);
        i32 between[channels];
        UNROLL for (int channel = 0; channel < channels; channel++) between[channel] = ONE / 2;
        for (u32 near = 0; near < near_count; near++) {
            i32 weight = first.row.weights.load(near);
            UNROLL for (int channel = 0; channel < channels; channel++) between[channel] += weight * i32(at.load(channel));
            at = at.from(first.step);
        }
        i32 weight = second.row.weights.load(far);
        UNROLL for (int channel = 0; channel < channels; channel++) sums[channel] += weight * i32(cut(between[channel]));
    }
    UNROLL for (int channel = 0; channel < channels; channel++) pixel[channel] = cut(sums[channel]);
}

template <int channels>
ANYWHERE void resize_pixels(const CropResizeArgs& args) {
    const Output& out = args.out;
    for (u64 image = thread_z(); image < args.images; image += threads_z()) {
        Sample sample = args.samples.load(image);
        // The cubic kernel overshoots, and what leaves the bytes' range between the passes is cut: the order shows.
        int axis = args.filter == BICUBIC && (sample.turn & COLUMNS_FIRST) ? 0 : 1;
        for (u64 y = thread_y(); y < out.height; y += threads_y()) {
            for (u64 x = thread_x(); x < out.width; x += threads_x()) {
                u8 pixel[channels] = {};
                Kept kept(sample, out, u32(x), u32(y));
                if (kept.any) {
                    Pass first(sample, axis, kept, channels), second(sample, 1 - axis, kept, channels);
                    mix<channels>(sample.pixels, first, second, pixel);
                }
                put<channels, 1>(out, image, y * out.width + x, pixel, 1);
            }
        }
    }
}

KERNEL(crop_resize, CropResizeArgs) {
    if (args.out.channels == 1) return resize_pixels<1>(args);
    resize_pixels<3>(args);
}

EFFECTS(crop_resize, CropResizeArgs) {
    const Output& out = args.out;
    effects.writes(out.pixels.address, out.bytes(args.images));
    effects.reads(args.samples.address, args.images * sizeof(Sample));
    for (u64 image = 0; image < args.images; image++) {
        Sample sample = args.samples.load(image);
        u64 first[2], count[2];
        bool any = sample.shown(out, 0) > 0 && sample.shown(out, 1) > 0;
        for (int axis = 0; axis < 2 && any; axis++) {
            u32 shown = sample.shown(out, axis);
            for (u32 number = 0; number < shown; number++) {
                u64 weights = Reach(sample, axis, number, args.filter).count;
                effects.reads(Row(sample, axis, number).head.address, 8 + 2 * weights);
            }
            // Neighbours' kernels overlap: what lies between the first and the last one is read.
            Reach last(sample, axis, shown - 1, args.filter);
            first[axis] = Reach(sample, axis, 0, args.filter).first;
            count[axis] = last.first + last.count - first[axis];
        }
        if (any) reads_rows(effects, sample, out.channels, first[0], first[1], count[0], count[1]);
    }
}
