// Where a batch of pictures goes: normalised, cast and laid out as each pixel is written, once.
#pragma once

#include "number.h"

enum Layout : u32 { NHWC, NCHW };

// As Output in Rust, which defines the arithmetic.
struct Output {
    Global<u8> pixels;
    u32 height;
    u32 width;
    // 1 or 3.
    u32 channels;
    // U8, F16, BF16 or F32.
    u32 element;
    u32 layout;
    float scale[3];
    float bias[3];

    ANYWHERE u64 area() const { return u64(height) * width; }

    ANYWHERE u64 bytes(u64 images) const {
        u64 each = element == F32 ? 4 : element == U8 ? 1 : 2;
        return images * area() * channels * each;
    }
};

// Writes the first `count` pixels of `values`, channel by channel, from pixel number `pixel` of an image on.
template <typename T, int channels, int most>
ANYWHERE void put_as(const Output& out, u64 image, u64 pixel, const u8 (&values)[most * channels], u32 count) {
    T numbers[channels][most];
    UNROLL for (int channel = 0; channel < channels; channel++) {
        UNROLL for (int at = 0; at < most; at++) {
            float value = product(float(values[at * channels + channel]), out.scale[channel]);
            convert(sum(value, out.bias[channel]), numbers[channel][at]);
        }
    }
    Global<T> to = out.pixels.as<T>();
    if (out.layout == NCHW) {
        UNROLL for (int channel = 0; channel < channels; channel++) {
            store_some(to.from((image * channels + channel) * out.area() + pixel), numbers[channel], count);
        }
        return;
    }
    T mixed[most * channels];
    UNROLL for (int at = 0; at < most * channels; at++) mixed[at] = numbers[at % channels][at / channels];
    store_some(to.from((image * out.area() + pixel) * channels), mixed, count * channels);
}

template <int channels, int most>
ANYWHERE void put(const Output& out, u64 image, u64 pixel, const u8 (&values)[most * channels], u32 count) {
    switch (out.element) {
        case U8: return put_as<u8, channels, most>(out, image, pixel, values, count);
        case F16: return put_as<Half, channels, most>(out, image, pixel, values, count);
        case BF16: return put_as<Brain, channels, most>(out, image, pixel, values, count);
        case F32: return put_as<float, channels, most>(out, image, pixel, values, count);
    }
}
