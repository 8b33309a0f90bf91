//! Pure: (counts, seed, epoch, rank, world size) → positions → samples; no I/O.
