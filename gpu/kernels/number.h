// Types of numbers that C++ lacks, and conversions whose results are the same everywhere: a NaN becomes the positive quiet one without payload.
#pragma once

#include "kernel.h"

// As Element in Rust.
enum Element : u32 { BOOL, U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64 };

struct Half {
    u16 bits;
};

struct Brain {
    u16 bits;
};

// Rounded to the nearest, ties to even; beyond the range infinite.
ANYWHERE Half to_half(float value) {
    u32 bits = bits_of(value);
    u32 sign = bits >> 16 & 0x8000;
    u32 size = bits & 0x7fffffff;
    if (size > 0x7f800000) return Half{0x7e00};
    // 65520 lies between the largest half and what would follow it.
    if (size >= 0x477ff000) return Half{u16(sign | 0x7c00)};
    if (size >= 0x38800000) {
        u32 even = size >> 13 & 1;
        return Half{u16(sign | (size + 0xfff + even - 0x38000000) >> 13)};
    }
    // Below 2^-14 a half is a multiple of 2^-24; half of that goes to zero, as do smaller ones.
    if (size <= 0x33000000) return Half{u16(sign)};
    u32 shift = 126 - (size >> 23);
    u32 digits = (size & 0x7fffff) | 0x800000;
    u32 kept = digits >> shift;
    u32 rest = digits & ((1u << shift) - 1);
    u32 tie = 1u << (shift - 1);
    return Half{u16(sign | (kept + (rest > tie || (rest == tie && (kept & 1))))) };
}

ANYWHERE float from_half(Half half) {
    u32 sign = u32(half.bits & 0x8000) << 16;
    u32 exponent = half.bits >> 10 & 0x1f;
    u32 digits = half.bits & 0x3ff;
    if (exponent == 31) return float_of(digits ? 0x7fc00000 : sign | 0x7f800000);
    if (exponent > 0) return float_of(sign | (exponent + 112) << 23 | digits << 13);
    // Exact: ten digits times 2^-24.
    return float_of(sign | bits_of(product(float(digits), float_of(0x33800000))));
}

// Rounded to the nearest, ties to even.
ANYWHERE Brain to_brain(float value) {
    u32 bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return Brain{0x7fc0};
    return Brain{u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

ANYWHERE float from_brain(Brain brain) { return float_of(u32(brain.bits) << 16); }

// Rounded to the nearest, ties to even; what lies beyond 0 and 255 becomes these, and a NaN 0.
ANYWHERE u8 to_byte(float value) {
    if (!(value > 0)) return 0;
    if (value >= 255) return 255;
    // Adding 2^23 leaves no bit behind the point.
    return u8(bits_of(sum(value, 8388608.0f)) & 0xff);
}

ANYWHERE void convert(float value, u8& to) { to = to_byte(value); }
ANYWHERE void convert(float value, Half& to) { to = to_half(value); }
ANYWHERE void convert(float value, Brain& to) { to = to_brain(value); }
ANYWHERE void convert(float value, float& to) { to = value; }
