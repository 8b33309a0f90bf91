//! "Give me these bytes from the nearest tier."
//!
//! The tiers, nearest first: host memory ([`ram`]), NVMe ([`disk`]), origin ([`origin`]). What arrives is checked, kept
//! under the identity of the object's version ([`object`]), and handed out as a [`memory::Lease`]: as long as it is held, those bytes
//! stay where they are.

pub mod disk;
pub mod error;
pub mod granule;
pub mod io;
pub mod memory;
pub mod object;
pub mod origin;
pub mod ram;
pub mod stats;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tiered;

pub use error::{Error, Result};
pub use memory::Lease;
pub use object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta, Version};
pub use stats::CacheStats;
pub use tiered::{Cache, CacheOptions, Prefetched, Read, Tier, Tiers};
