// All kernels for the host, and a table of them.
#include "kernel.h"

#include "cast.cu"
#include "convert.cu"
#include "crop.cu"
#include "crop_resize.cu"
#include "gather.cu"
#include "resize_weights.cu"

namespace {

struct Kernel {
    const char* name;
    u64 args_bytes;
    void (*run)(const void* args, const u32* grid, const u32* block, i64 shift, Tell tell, void* context);
    void (*effects)(const void* args, i64 shift, Tell tell, void* context);
};

template <typename Args, void (*thread)(const Args&)>
void run(const void* bytes, const u32* grid, const u32* block, i64 shift, Tell tell, void* context) {
    Args args;
    std::memcpy(&args, bytes, sizeof args);
    Machine before = machine;
    machine = Machine{u64(shift), tell, context, {}, {}};
    for (int axis = 0; axis < 3; axis++) machine.threads[axis] = u64(grid[axis]) * block[axis];
    u64(&at)[3] = machine.thread;
    for (at[2] = 0; at[2] < machine.threads[2]; at[2]++) {
        for (at[1] = 0; at[1] < machine.threads[1]; at[1]++) {
            for (at[0] = 0; at[0] < machine.threads[0]; at[0]++) thread(args);
        }
    }
    machine = before;
}

template <typename Args, void (*declare)(const Args&, Effects&)>
void effects(const void* bytes, i64 shift, Tell tell, void* context) {
    Args args;
    std::memcpy(&args, bytes, sizeof args);
    Machine before = machine;
    machine = Machine{u64(shift), nullptr, nullptr, {}, {}};
    Effects told(tell, context);
    declare(args, told);
    machine = before;
}

#define ENTRY(name, Args) \
    { "forebay_" #name, sizeof(Args), run<Args, name##_thread>, effects<Args, name##_effects> }

const Kernel kernels[] = {
    ENTRY(cast, CastArgs),
    ENTRY(convert, ConvertArgs),
    ENTRY(crop, CropArgs),
    ENTRY(crop_resize, CropResizeArgs),
    ENTRY(gather, GatherArgs),
    ENTRY(resize_weights, ResizeWeightsArgs),
};

}  // namespace

extern "C" const Kernel* forebay_host_kernels(u64* count) {
    *count = sizeof kernels / sizeof *kernels;
    return kernels;
}
