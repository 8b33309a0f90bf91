// The host's side of kernel.h.
//
// Addresses are the device's: what is really touched lies `shift` bytes further on. An address that isn't a multiple of its value's
// alignment ends the process, as it ends a context on the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define ANYWHERE inline
#define KERNEL(name, Args) static void name##_thread(const Args& args)
#define EFFECTS(name, Args) static void name##_effects(const Args& args, Effects& effects)

#define UNROLL
#define ROLLED

// Told of an access: address, bytes, whether it writes.
typedef void (*Tell)(void* context, u64 address, u64 bytes, bool writes);

// What a host thread runs now.
struct Machine {
    u64 shift;
    // Who wants to know of each access; or null.
    Tell tell;
    void* context;
    // Along x, y, z.
    u64 thread[3];
    u64 threads[3];
};

static thread_local Machine machine;

class Effects {
    Tell tell;
    void* context;

  public:
    Effects(Tell tell, void* context) : tell(tell), context(context) {}
    void reads(u64 address, u64 bytes) {
        if (bytes > 0) tell(context, address, bytes, false);
    }
    void writes(u64 address, u64 bytes) {
        if (bytes > 0) tell(context, address, bytes, true);
    }
};

// 16 bytes that one instruction moves.
struct alignas(16) Wide {
    u32 words[4];
};

template <typename T>
inline void* touch(u64 address, bool writes) {
    if (address % alignof(T) != 0) {
        std::fprintf(stderr, "a kernel %s %zu bytes at %#llx, which is no multiple of %zu\n", writes ? "writes" : "reads",
                     sizeof(T), address, alignof(T));
        std::abort();
    }
    if (machine.tell != nullptr) machine.tell(machine.context, address, sizeof(T), writes);
    return reinterpret_cast<void*>(static_cast<uintptr_t>(address + machine.shift));
}

template <typename T>
inline void read_memory(u64 address, T& value) {
    std::memcpy(&value, touch<T>(address, false), sizeof(T));
}

template <typename T>
inline void write_memory(u64 address, const T& value) {
    std::memcpy(touch<T>(address, true), &value, sizeof(T));
}

inline u64 thread_x() { return machine.thread[0]; }
inline u64 thread_y() { return machine.thread[1]; }
inline u64 thread_z() { return machine.thread[2]; }
inline u64 threads_x() { return machine.threads[0]; }
inline u64 threads_y() { return machine.threads[1]; }
inline u64 threads_z() { return machine.threads[2]; }

// The build forbids to contract them.
inline float product(float a, float b) { return a * b; }
inline float sum(float a, float b) { return a + b; }

inline u32 bits_of(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float float_of(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
