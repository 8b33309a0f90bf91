//! Memory on a device, and bytes moved into it.
//!
//! host slot ─ [`staging`] ─► [`memory`] of a [`device`] ─► whoever asked, with an event to wait for.
//! compressed image ─ [`jpeg`] ─┘
//!
//! The crate promises that no memory is used again, on the host or on the device, while somebody may still work on it; that no call leaves a
//! trace on the calling thread; and that a machine without a GPU, or with an old driver, gets an error that says so. What the bytes mean is
//! others' affair.

pub mod cuda;
pub mod device;
mod error;
pub mod host;
mod in_flight;
pub mod jpeg;
pub mod memory;
pub mod mutant;
mod pinned;
pub mod staging;
pub mod tier;
mod which;

pub use device::{Address, Device, Event, Facts, RawStream, Stream, launch};
pub use forebay_kernels as kernels;

pub use error::{Error, Result};
pub use in_flight::InFlight;
pub use memory::{DeviceMemory, DeviceSlab, Guard, Waited};
pub use pinned::Pinned;
pub use staging::Staging;
pub use which::Which;
