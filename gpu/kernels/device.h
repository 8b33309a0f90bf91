// The device's side of kernel.h.
#pragma once

#define ANYWHERE __device__ inline
#define KERNEL(name, Args) extern "C" __global__ void __launch_bounds__(256, 1) forebay_##name(const __grid_constant__ Args args)
// Of use to the host alone: a template that nobody asks for becomes no code.
#define EFFECTS(name, Args) \
    template <typename Effects> \
    __device__ void name##_effects(const Args& args, Effects& effects)

#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

// 16 bytes that one instruction moves.
struct alignas(16) Wide {
    u32 words[4];
};

// What lies in global memory, said to the compiler: accesses need not find it out.
template <typename T>
ANYWHERE T* global(u64 address) {
    return static_cast<T*>(__cvta_global_to_generic(address));
}

template <typename T>
ANYWHERE void read_memory(u64 address, T& value) {
    value = *global<const T>(address);
}

template <typename T>
ANYWHERE void write_memory(u64 address, const T& value) {
    *global<T>(address) = value;
}

// This thread's number along a direction of the grid, and how many threads there are.
ANYWHERE u64 thread_x() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }
ANYWHERE u64 thread_y() { return u64(blockIdx.y) * blockDim.y + threadIdx.y; }
ANYWHERE u64 thread_z() { return u64(blockIdx.z) * blockDim.z + threadIdx.z; }
ANYWHERE u64 threads_x() { return u64(gridDim.x) * blockDim.x; }
ANYWHERE u64 threads_y() { return u64(gridDim.y) * blockDim.y; }
ANYWHERE u64 threads_z() { return u64(gridDim.z) * blockDim.z; }

// Rounded one by one, whatever the compiler's options say.
ANYWHERE float product(float a, float b) { return __fmul_rn(a, b); }
ANYWHERE float sum(float a, float b) { return __fadd_rn(a, b); }

ANYWHERE u32 bits_of(float value) { return __float_as_uint(value); }
ANYWHERE float float_of(u32 bits) { return __uint_as_float(bits); }
