//! What Forebay runs on a device: its kernels.
//!
//! Sources are the `.cu` files beside this crate's `src`; `make kernels` compiles them to [`PTX`], which is checked in, so that a build needs
//! neither CUDA nor a GPU. The crate promises the kernels' arguments as Rust structs and a launch geometry for each ([`Kernel`]); memory,
//! streams and launches are others' affair.
//!
//! Every kernel takes its arguments as one struct by value, uses no shared memory and no barrier, and touches memory only where its
//! arguments say. All indices are of 64 bits. A launch with nothing to do is allowed and does nothing.
//!
//! | kernel | what it does |
//! |---|---|
//! | [`GatherArgs`] | copies rows of equal size from anywhere |
//! | [`CastArgs`] | the same, as another type of number |
//! | [`ConvertArgs`] | a batch of uint8 pictures: normalise, cast, layout |
//! | [`CropArgs`] | parts of pictures from anywhere: crop, turn, pad; then the same |
//! | [`CropResizeArgs`] | the same with an antialiased resize |
//! | [`ResizeWeightsArgs`] | what that needs first |
//!
//! With the feature `host` the same sources are compiled for the host as well: module `host`.

mod element;
#[cfg(feature = "host")]
pub mod host;
mod launch;
mod output;
mod pictures;
mod rows;
mod sample;

pub use element::Element;
pub use launch::Launch;
pub use output::{Channels, Layout, Output, PixelType, normalising};
pub use pictures::{ConvertArgs, CropArgs, CropResizeArgs, Filter, ResizeWeightsArgs};
pub use rows::{CastArgs, GatherArgs};
pub use sample::{Cut, Picture, Sample, Turn};

/// All kernels, for `cuModuleLoadDataEx`: PTX 8.0 for compute capability 7.0 and newer, which drivers since CUDA 12.0 load.
pub const PTX: &str = include_str!("../forebay.ptx");

/// The names of all kernels in [`PTX`].
pub const NAMES: [&str; 6] = [
    GatherArgs::NAME,
    CastArgs::NAME,
    ConvertArgs::NAME,
    CropArgs::NAME,
    ResizeWeightsArgs::NAME,
    CropResizeArgs::NAME,
];

/// Arguments of a kernel: passed by value, as the kernel's only parameter.
///
/// Addresses are the device's.
pub trait Kernel: Copy + 'static {
    /// What the kernel is called in [`PTX`].
    const NAME: &'static str;

    /// Blocks and threads for these arguments.
    fn launch(&self) -> Launch;
}
