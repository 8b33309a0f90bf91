//! The kernels' host builds against computations that share nothing with them, in memory that watches every access.

mod cast;
mod convert;
mod cut;
mod gather;
mod memory;
mod number;
mod pictures;
mod ptx;
