// A batch of uint8 pictures, NHWC, as the tensor that a model wants.
#include "output.h"

struct ConvertArgs {
    Output out;
    // As high, as wide and of as many channels as the output.
    Global<u8> pixels;
    u64 images;
};

// Four neighbouring pixels a thread: with three channels, 12 bytes, which are three words where they are aligned.
template <int channels>
ANYWHERE void convert_pixels(const ConvertArgs& args) {
    u64 area = args.out.area();
    for (u64 image = thread_y(); image < args.images; image += threads_y()) {
        for (u64 pixel = thread_x() * 4; pixel < area; pixel += threads_x() * 4) {
            Global<u8> from = args.pixels.from((image * area + pixel) * channels);
            u32 count = area - pixel < 4 ? u32(area - pixel) : 4;
            u8 values[4 * channels] = {};
            load_some(from, values, count * channels);
            put<channels, 4>(args.out, image, pixel, values, count);
        }
    }
}

KERNEL(convert, ConvertArgs) {
    if (args.out.channels == 1) return convert_pixels<1>(args);
    convert_pixels<3>(args);
}

EFFECTS(convert, ConvertArgs) {
    effects.reads(args.pixels.address, args.images * args.out.area() * args.out.channels);
    effects.writes(args.out.pixels.address, args.out.bytes(args.images));
}
