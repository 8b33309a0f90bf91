//! The kernels' host builds against computations that share nothing with them, in memory that watches every access.

mod gather;
mod memory;
mod ptx;
