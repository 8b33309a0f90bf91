// A batch from rows of equal size that lie anywhere in device memory.
#include "kernel.h"

struct GatherArgs {
    // Where each row lies: any address.
    Global<Global<u8>> samples;
    // Rows one after the other.
    Global<u8> out;
    u64 rows;
    u64 row_bytes;
};

// As many bytes at a time as both addresses allow; threads along x share a row.
template <typename Unit>
ANYWHERE u64 copy_units(Global<u8> from, Global<u8> to, u64 bytes, u64 thread, u64 threads) {
    u64 units = bytes / sizeof(Unit);
    for (u64 at = thread; at < units; at += threads) {
        to.as<Unit>().store(at, from.as<Unit>().load(at));
    }
    return units * sizeof(Unit);
}

KERNEL(gather, GatherArgs) {
    for (u64 row = thread_y(); row < args.rows; row += threads_y()) {
        Global<u8> from = args.samples.load(row);
        Global<u8> to = args.out.from(row * args.row_bytes);
        Global<u8> both = {from.address | to.address};
        u64 done = both.aligned(16)  ? copy_units<Wide>(from, to, args.row_bytes, thread_x(), threads_x())
                   : both.aligned(4) ? copy_units<u32>(from, to, args.row_bytes, thread_x(), threads_x())
                                     : 0;
        copy_units<u8>(from.from(done), to.from(done), args.row_bytes - done, thread_x(), threads_x());
    }
}

EFFECTS(gather, GatherArgs) {
    effects.reads(args.samples.address, args.rows * sizeof(Global<u8>));
    for (u64 row = 0; row < args.rows; row++) effects.reads(args.samples.load(row).address, args.row_bytes);
    effects.writes(args.out.address, args.rows * args.row_bytes);
}
