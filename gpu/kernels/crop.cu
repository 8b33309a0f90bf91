// A batch from parts of uint8 pictures that lie anywhere in device memory: cut, turned, padded, and finished as each pixel is written.
#include "sample.h"

struct CropArgs {
    Output out;
    Global<Sample> samples;
    u64 images;
};

// Four neighbouring pixels a thread, so that they can be written together.
template <int channels>
ANYWHERE void crop_pixels(const CropArgs& args) {
    const Output& out = args.out;
    for (u64 image = thread_z(); image < args.images; image += threads_z()) {
        Sample sample = args.samples.load(image);
        u64 left = u64(sample.start[0]), top = u64(sample.start[1]);
        for (u64 y = thread_y(); y < out.height; y += threads_y()) {
            for (u64 x = thread_x() * 4; x < out.width; x += threads_x() * 4) {
                u32 count = out.width - x < 4 ? u32(out.width - x) : 4;
                u8 values[4 * channels] = {};
                UNROLL for (u32 at = 0; at < 4; at++) {
                    if (at >= count) continue;
                    Kept kept(sample, out, u32(x) + at, u32(y));
                    if (!kept.any) continue;
                    Global<u8> from = sample.pixels.from((top + kept.at[1]) * sample.stride + (left + kept.at[0]) * channels);
                    UNROLL for (int channel = 0; channel < channels; channel++) {
                        values[at * channels + channel] = from.load(channel);
                    }
                }
                put<channels, 4>(out, image, y * out.width + x, values, count);
            }
        }
    }
}

KERNEL(crop, CropArgs) {
    if (args.out.channels == 1) return crop_pixels<1>(args);
    crop_pixels<3>(args);
}

EFFECTS(crop, CropArgs) {
    const Output& out = args.out;
    effects.writes(out.pixels.address, out.bytes(args.images));
    effects.reads(args.samples.address, args.images * sizeof(Sample));
    for (u64 image = 0; image < args.images; image++) {
        Sample sample = args.samples.load(image);
        reads_rows(effects, sample, out.channels, u64(sample.start[0]), u64(sample.start[1]), sample.shown(out, 0),
                   sample.shown(out, 1));
    }
}
