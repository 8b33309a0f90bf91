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
