// A batch from parts of uint8 pictures, resized with antialiasing as the CPU does it: the same weights in fixed point, the same rounding
// between the two passes; a weight may differ in its last place, as it is computed from float32 and not float64.
//
// A thread makes one pixel and keeps nothing between the passes: each source pixel under its kernel is multiplied once.
#include "sample.h"

enum Filter : u32 { BILINEAR, BICUBIC };

struct CropResizeArgs {
    Output out;
    Global<Sample> samples;
    u64 images;
    u32 filter;
};

// Bits behind a weight's point, and half of its last place.
constexpr int BITS = 14;
constexpr i32 ONE = 1 << BITS;
constexpr i32 HALF = ONE / 2;

// Source pixels first to end of one direction, and their weights.
struct Taps {
    u32 first;
    u32 end;
    // The first one's distance from the kernel's centre, and from one to the next, in units of the kernel.
    float offset;
    float inverse;
    // From the kernel's value to a weight, so that they add up to ONE; what rounding leaves goes to the largest.
    float scale;
    u32 largest;
    i32 left;
    bool cubic;

    // Pixel `number` of a direction of `sample`.
    ANYWHERE Taps(const Sample& sample, int axis, u32 number, u32 filter) {
        cubic = filter == BICUBIC;
        reach(sample, axis, number);
        float total = 0;
        ROLLED for (u32 tap = 0; tap < end - first; tap++) total += kernel(tap);
        scale = total > 1e-12f || total < -1e-12f ? float(ONE) / total : 0;
        largest = 0;
        left = ONE;
        i32 most = rounded(0);
        ROLLED for (u32 tap = 0; tap < end - first; tap++) {
            i32 weight = rounded(tap);
            left -= weight;
            if (weight > most) {
                largest = tap;
                most = weight;
            }
        }
    }

    // Pillow's rounding of the ends, cut at the region's edges. In float64, as a large picture needs more than 24 bits.
    ANYWHERE void reach(const Sample& sample, int axis, u32 number) {
        double step = sample.step[axis], length = sample.region[axis];
        double stretch = step > 1 ? step : 1;
        double support = (cubic ? 2 : 1) * stretch;
        double centre = sample.start[axis] + (number + 0.5) * step;
        double low = centre - support + 0.5, high = centre + support + 0.5;
        first = u32(low < 0 ? 0 : low < length - 1 ? low : length - 1);
        end = u32(high < first + 1.0 ? first + 1.0 : high < length ? high : length);
        inverse = 1 / float(stretch);
        offset = float(first - centre + 0.5) * inverse;
    }

    ANYWHERE float kernel(u32 tap) const {
        float x = offset + float(tap) * inverse;
        x = x < 0 ? -x : x;
        if (!cubic) return x < 1 ? 1 - x : 0;
        // Keys' cubic with a = -0.5.
        if (x < 1) return (1.5f * x - 2.5f) * x * x + 1;
        return x < 2 ? ((-0.5f * x + 2.5f) * x - 4) * x + 2 : 0;
    }

    ANYWHERE i32 rounded(u32 tap) const {
        float weight = kernel(tap) * scale;
        return i32(weight < 0 ? weight - 0.5f : weight + 0.5f);
    }

    ANYWHERE i32 weight(u32 tap) const { return rounded(tap) + (tap == largest ? left : 0); }
};

ANYWHERE u8 cut(i32 sum) {
    sum >>= BITS;
    return u8(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// The weighted sum along one direction for each tap of the other, cut to bytes, and the weighted sum of these.
template <int channels>
ANYWHERE void mix(Global<u8> from, const Taps& inner, u64 inner_step, const Taps& outer, u64 outer_step, u8 (&pixel)[channels]) {
    i32 sums[channels];
    UNROLL for (int channel = 0; channel < channels; channel++) sums[channel] = HALF;
    ROLLED for (u32 far = 0; far < outer.end - outer.first; far++) {
        Global<u8> line = from.from((outer.first + far) * outer_step + inner.first * inner_step);
        i32 between[channels];
        UNROLL for (int channel = 0; channel < channels; channel++) between[channel] = HALF;
        for (u32 near = 0; near < inner.end - inner.first; near++) {
            i32 weight = inner.weight(near);
            UNROLL for (int channel = 0; channel < channels; channel++) between[channel] += weight * i32(line.load(channel));
            line = line.from(inner_step);
        }
        i32 weight = outer.weight(far);
        UNROLL for (int channel = 0; channel < channels; channel++) sums[channel] += weight * i32(cut(between[channel]));
    }
    UNROLL for (int channel = 0; channel < channels; channel++) pixel[channel] = cut(sums[channel]);
}

template <int channels>
ANYWHERE void resize_pixels(const CropResizeArgs& args) {
    const Output& out = args.out;
    for (u64 image = thread_z(); image < args.images; image += threads_z()) {
        Sample sample = args.samples.load(image);
        for (u64 y = thread_y(); y < out.height; y += threads_y()) {
            for (u64 x = thread_x(); x < out.width; x += threads_x()) {
                u8 pixel[channels] = {};
                Kept kept(sample, out, u32(x), u32(y));
                if (kept.any) {
                    Taps across(sample, 0, kept.at[0], args.filter), down(sample, 1, kept.at[1], args.filter);
                    if (sample.turn & COLUMNS_FIRST) {
                        mix<channels>(sample.pixels, across, channels, down, sample.stride, pixel);
                    } else {
                        mix<channels>(sample.pixels, down, sample.stride, across, channels, pixel);
                    }
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
        u32 width = sample.shown(out, 0), height = sample.shown(out, 1);
        if (width == 0 || height == 0) continue;
        // Neighbours' kernels overlap: what lies between the first and the last one is read.
        Taps left(sample, 0, 0, args.filter), right(sample, 0, width - 1, args.filter);
        Taps top(sample, 1, 0, args.filter), bottom(sample, 1, height - 1, args.filter);
        reads_rows(effects, sample, out.channels, left.first, top.first, right.end - left.first, bottom.end - top.first);
    }
}
