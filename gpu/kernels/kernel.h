// What kernels are written with. The same sources compile for the device (NVRTC) and for the host.
//
// A kernel takes one struct by value and touches memory only through Global<T>. Its threads know nothing of each other: no shared memory,
// no barrier, no atomics. So the host may run them one after the other, and at addresses that only a device could dereference.
//
//     KERNEL(name, NameArgs) { ... }   what one thread does with `args`; the symbol is forebay_name
//     EFFECTS(name, NameArgs) { ... }  every byte that a launch reads or writes, told to `effects`
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

#ifdef __CUDACC_RTC__
#include "device.h"
#else
#include "host.h"
#endif

// The address of values of type T in device memory.
template <typename T>
struct Global {
    u64 address;

    ANYWHERE Global<T> from(u64 index) const { return Global<T>{address + index * sizeof(T)}; }

    ANYWHERE T load(u64 index) const {
        T value;
        read_memory(address + index * sizeof(T), value);
        return value;
    }

    ANYWHERE void store(u64 index, T value) const { write_memory(address + index * sizeof(T), value); }

    ANYWHERE bool aligned(u64 bytes) const { return address % bytes == 0; }

    template <typename Other>
    ANYWHERE Global<Other> as() const {
        return Global<Other>{address};
    }
};

// The largest of 1, 4, 8 and 16 bytes that divides `bytes`, as a type.
template <bool yes, typename Then, typename Else>
struct Choose {
    typedef Then type;
};
template <typename Then, typename Else>
struct Choose<false, Then, Else> {
    typedef Else type;
};
template <u64 bytes>
struct UnitOf {
    typedef typename Choose<bytes % 4 == 0, u32, u8>::type Word;
    typedef typename Choose<bytes % 8 == 0, u64, Word>::type Long;
    typedef typename Choose<bytes % 16 == 0, Wide, Long>::type type;
};

// The first `count` of `values`, which follow each other in memory: in few accesses, where all are wanted and the address allows it.
template <typename T, int most>
ANYWHERE void load_some(Global<T> from, T (&values)[most], u32 count) {
    typedef typename UnitOf<sizeof values>::type Unit;
    if (count == most && sizeof(Unit) > sizeof(T) && from.aligned(sizeof(Unit))) {
        Unit units[most * sizeof(T) / sizeof(Unit)];
        UNROLL for (u64 at = 0; at < most * sizeof(T) / sizeof(Unit); at++) units[at] = from.template as<Unit>().load(at);
        memcpy(values, units, sizeof values);
        return;
    }
    UNROLL for (u32 at = 0; at < most; at++) {
        if (at < count) values[at] = from.load(at);
    }
}

template <typename T, int most>
ANYWHERE void store_some(Global<T> to, const T (&values)[most], u32 count) {
    typedef typename UnitOf<sizeof values>::type Unit;
    if (count == most && sizeof(Unit) > sizeof(T) && to.aligned(sizeof(Unit))) {
        Unit units[most * sizeof(T) / sizeof(Unit)];
        memcpy(units, values, sizeof values);
        UNROLL for (u64 at = 0; at < most * sizeof(T) / sizeof(Unit); at++) to.template as<Unit>().store(at, units[at]);
        return;
    }
    UNROLL for (u32 at = 0; at < most; at++) {
        if (at < count) to.store(at, values[at]);
    }
}
