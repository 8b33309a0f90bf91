//! What the program's commands ask of the folder and get told.

use serde::{Deserialize, Serialize};

use crate::object::{BlockId, ObjectId};
use crate::stats::DiskState;

/// What to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evict {
    /// Everything.
    All,
    /// One object.
    Object(ObjectId),
    /// As much as brings the folder down to this many bytes, in the order of eviction; what the plan needs stays. Aux files may keep a
    /// sixteenth of that.
    DownTo {
        /// Bytes that may remain allocated.
        bytes: u64,
    },
}

/// A block that `verify` found bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which block.
    pub block: BlockId,
    /// The object's name, without the query of a signed URL.
    pub location: String,
    /// What was wrong, and where.
    pub what: String,
}

/// How far `verify` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Blocks checked so far.
    pub checked_blocks: u64,
    /// Blocks to check in all.
    pub total_blocks: u64,
    /// Bytes checked so far.
    pub checked_bytes: u64,
    /// The block just checked, where it was bad.
    pub finding: Option<Finding>,
}

/// An object of which something is cached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedObject {
    /// Its identity.
    pub id: ObjectId,
    /// Its name, without the query of a signed URL.
    pub location: String,
    /// Its whole size.
    pub size_bytes: u64,
    /// Blocks of it that are cached.
    pub cached_blocks: u32,
    /// Seconds since 1970 when it was last read.
    pub last_use_seconds: u64,
}

/// What the folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The folder.
    pub dir: std::path::PathBuf,
    /// `cache_limit`.
    pub limit_bytes: u64,
    /// Bytes allocated, with everything.
    pub used_bytes: u64,
    /// How well the disk is.
    pub disk_state: DiskState,
    /// The objects, by name.
    pub objects: Vec<CachedObject>,
}
