//! "Give me these bytes from the nearest tier."
//!
//! The tiers, nearest first: host memory ([`ram`]), NVMe ([`disk`]), origin ([`origin`]). What arrives is checked, kept
//! under the identity of the object's version ([`object`]), and handed out as a [`memory::Lease`]: as long as it is held, those bytes
//! stay where they are. [`Cache`] is all of it, shared with the other processes on the same folder ([`share`]).

pub mod crc;
pub mod disk;
pub mod error;
pub mod io;
pub mod memory;
pub mod object;
pub mod origin;
pub mod ram;
mod running;
pub mod share;
pub mod stats;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tiered;

pub use error::{Error, Result};
pub use memory::Lease;
pub use object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta, Version};
pub use share::Cache;
pub use stats::CacheStats;
pub use tiered::{CacheOptions, Hold, Prefetched, Read, Sharing, Tier, Tiers};
