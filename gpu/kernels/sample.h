// Which pixels of a picture in device memory become which pixels of a batch.
#pragma once

#include "output.h"

enum Turn : u32 { TRANSPOSE = 1, FLIP_X = 2, FLIP_Y = 4, COLUMNS_FIRST = 8 };

// One of a pair. An index that is known only when the kernel runs would move the pair out of the registers.
template <typename T>
ANYWHERE T of(const T (&pair)[2], int axis) {
    return axis == 0 ? pair[0] : pair[1];
}

// As Sample in Rust. Pairs are along x and along y of the stored picture, before it is turned.
struct Sample {
    Global<u8> pixels;
    u64 stride;
    Global<u8> weights;
    double start[2];
    double step[2];
    u32 region[2];
    u32 first[2];
    u32 count[2];
    u32 taps[2];
    u32 turn;

    // The output's size before it is turned.
    ANYWHERE u32 across(const Output& out, int axis) const {
        return (axis == 0) == ((turn & TRANSPOSE) == 0) ? out.width : out.height;
    }

    // How many of the kept pixels the output has room for.
    ANYWHERE u32 shown(const Output& out, int axis) const {
        u32 across = this->across(out, axis);
        u32 room = of(first, axis) < across ? across - of(first, axis) : 0;
        return room < of(count, axis) ? room : of(count, axis);
    }
};

// The kept pixel behind a pixel of the output; or none.
struct Kept {
    u32 at[2];
    bool any;

    ANYWHERE Kept(const Sample& sample, const Output& out, u32 x, u32 y) {
        x = sample.turn & FLIP_X ? out.width - 1 - x : x;
        y = sample.turn & FLIP_Y ? out.height - 1 - y : y;
        bool transposed = sample.turn & TRANSPOSE;
        // What lies before the first one is beyond the last one too, as these wrap around.
        at[0] = (transposed ? y : x) - sample.first[0];
        at[1] = (transposed ? x : y) - sample.first[1];
        any = at[0] < sample.count[0] && at[1] < sample.count[1];
    }
};

// Rows that are read of a picture.
template <typename Effects>
ANYWHERE void reads_rows(Effects& effects, const Sample& sample, u32 channels, u64 x, u64 y, u64 width, u64 height) {
    if (width == 0) return;
    for (u64 row = y; row < y + height; row++) {
        effects.reads(sample.pixels.address + row * sample.stride + x * channels, width * channels);
    }
}
