// A batch of arrays from rows that lie anywhere in device memory, as another type of number.
#include "number.h"

struct CastArgs {
    // Where each row lies: any address.
    Global<Global<u8>> samples;
    // Rows one after the other, aligned to their elements.
    Global<u8> out;
    u64 rows;
    // Elements of a row.
    u64 elements;
    u32 from;
    u32 to;
};

ANYWHERE u64 element_bytes(u32 element) {
    switch (element) {
        case BOOL: case U8: case I8: return 1;
        case U16: case I16: case F16: case BF16: return 2;
        case U32: case I32: case F32: return 4;
        default: return 8;
    }
}

// Any number of any type, exactly.
struct Number {
    enum Kind { SIGNED, UNSIGNED, REAL } kind;
    // Two's complement.
    u64 whole;
    double real;

    static ANYWHERE Number of_signed(i64 value) { return Number{SIGNED, u64(value), 0}; }
    static ANYWHERE Number of_unsigned(u64 value) { return Number{UNSIGNED, value, 0}; }
    static ANYWHERE Number of_real(double value) { return Number{REAL, 0, value}; }

    // Whole numbers wrap around; real ones lose their fraction and end at the type's ends, and a NaN becomes 0.
    template <typename T>
    ANYWHERE T to_whole(double least, double beyond) const {
        if (kind != REAL) return T(whole);
        if (!(real > least)) return real <= least ? T(least) : T(0);
        return real >= beyond ? T(~u64(0) >> (64 - 8 * sizeof(T) + (least < 0))) : T(real);
    }

    ANYWHERE float to_float() const {
        if (kind == SIGNED) return float(i64(whole));
        if (kind == UNSIGNED) return float(whole);
        return real != real ? float_of(0x7fc00000) : float(real);
    }

    ANYWHERE double to_double() const {
        if (kind == SIGNED) return double(i64(whole));
        if (kind == UNSIGNED) return double(whole);
        return real != real ? double(float_of(0x7fc00000)) : real;
    }

    ANYWHERE bool to_bool() const { return kind == REAL ? real != 0 : whole != 0; }
};

template <typename T>
ANYWHERE T load_anywhere(Global<u8> from) {
    if (from.aligned(sizeof(T))) return from.as<T>().load(0);
    u8 bytes[sizeof(T)];
    UNROLL for (u64 at = 0; at < sizeof(T); at++) bytes[at] = from.load(at);
    T value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

ANYWHERE Number load_number(Global<u8> at, u32 element) {
    switch (element) {
        case BOOL: return Number::of_unsigned(at.load(0) != 0);
        case U8: return Number::of_unsigned(at.load(0));
        case I8: return Number::of_signed(load_anywhere<i8>(at));
        case U16: return Number::of_unsigned(load_anywhere<u16>(at));
        case I16: return Number::of_signed(load_anywhere<i16>(at));
        case U32: return Number::of_unsigned(load_anywhere<u32>(at));
        case I32: return Number::of_signed(load_anywhere<i32>(at));
        case U64: return Number::of_unsigned(load_anywhere<u64>(at));
        case I64: return Number::of_signed(load_anywhere<i64>(at));
        case F16: return Number::of_real(from_half(load_anywhere<Half>(at)));
        case BF16: return Number::of_real(from_brain(load_anywhere<Brain>(at)));
        case F32: return Number::of_real(load_anywhere<float>(at));
        default: return Number::of_real(load_anywhere<double>(at));
    }
}

ANYWHERE void store_number(Global<u8> out, u64 index, u32 element, const Number& number) {
    switch (element) {
        case BOOL: return out.store(index, number.to_bool());
        case U8: return out.store(index, number.to_whole<u8>(0, 256));
        case I8: return out.as<i8>().store(index, number.to_whole<i8>(-128, 128));
        case U16: return out.as<u16>().store(index, number.to_whole<u16>(0, 65536));
        case I16: return out.as<i16>().store(index, number.to_whole<i16>(-32768, 32768));
        case U32: return out.as<u32>().store(index, number.to_whole<u32>(0, 4294967296.0));
        case I32: return out.as<i32>().store(index, number.to_whole<i32>(-2147483648.0, 2147483648.0));
        case U64: return out.as<u64>().store(index, number.to_whole<u64>(0, 18446744073709551616.0));
        case I64: return out.as<i64>().store(index, number.to_whole<i64>(-9223372036854775808.0, 9223372036854775808.0));
        case F16: return out.as<Half>().store(index, to_half(number.to_float()));
        case BF16: return out.as<Brain>().store(index, to_brain(number.to_float()));
        case F32: return out.as<float>().store(index, number.to_float());
        default: return out.as<double>().store(index, number.to_double());
    }
}

KERNEL(cast, CastArgs) {
    u64 bytes = element_bytes(args.from);
    for (u64 row = thread_y(); row < args.rows; row += threads_y()) {
        Global<u8> from = args.samples.load(row);
        for (u64 at = thread_x(); at < args.elements; at += threads_x()) {
            store_number(args.out, row * args.elements + at, args.to, load_number(from.from(at * bytes), args.from));
        }
    }
}

EFFECTS(cast, CastArgs) {
    effects.reads(args.samples.address, args.rows * sizeof(Global<u8>));
    for (u64 row = 0; row < args.rows; row++) {
        effects.reads(args.samples.load(row).address, args.elements * element_bytes(args.from));
    }
    effects.writes(args.out.address, args.rows * args.elements * element_bytes(args.to));
}
