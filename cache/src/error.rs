//! What can go wrong when bytes are asked for: one tree for the crate.
//!
//! `Display` says what failed, where, and what to do; it never repeats its source. Errors are `Clone`, since one fetch
//! that fails answers everybody who waited for it.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::object::{ByteRange, Location};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An underlying cause, shared by everyone who waited for the same fetch.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why bytes could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The origin has no such object.
    #[error("{location} does not exist at the origin; check the name, and the endpoint in storage_options")]
    NotFound {
        /// The object.
        location: Location,
    },
    /// The origin refused the credentials, or there were none (401, 403).
    #[error(
        "{location}: the origin refused access; check the credentials in the environment or in storage_options"
    )]
    PermissionDenied {
        /// The object.
        location: Location,
        /// The store's own answer, without secrets.
        source: Cause,
    },
    /// The object was replaced while it was being read: If-Match failed, or its size moved.
    #[error(
        "{location} changed at the origin while it was in use (bytes {range}); a mixture of two versions is never served: restart the epoch to take the new one"
    )]
    Changed {
        /// The object.
        location: Location,
        /// The range that was asked for.
        range: ByteRange,
    },
    /// The origin failed after every retry.
    #[error("{location}: reading bytes {range} from the origin failed after {attempts} attempts")]
    Origin {
        /// The object.
        location: Location,
        /// The range that was asked for.
        range: ByteRange,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        source: Cause,
    },
    /// No byte arrived for too long.
    #[error("{location}: no byte of {range} arrived for {}; the origin or the network stalled (stall_timeout in storage_options sets how long one connection may)", seconds(.after))]
    Stalled {
        /// The object.
        location: Location,
        /// The range that was asked for.
        range: ByteRange,
        /// How long nothing came.
        after: Duration,
    },
    /// A range that reaches behind the end of the object.
    #[error("{location} has {size_bytes} bytes; {range} reaches behind its end")]
    OutOfRange {
        /// The object.
        location: Location,
        /// The range that was asked for.
        range: ByteRange,
        /// The object's size.
        size_bytes: u64,
    },
    /// A URL or an option that can't be used.
    #[error("{message}")]
    Config {
        /// What is wrong and what to write instead.
        message: String,
    },
    /// The cache folder can't be used.
    #[error("cache folder {}: {what}", .path.display())]
    CacheDir {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What was tried and what to do.
        what: String,
        /// The operating system's answer.
        source: Cause,
    },
    /// Another process owns the cache folder.
    #[error("cache folder {}: another process owns it; connect to that one as a client, or choose another cache_dir", .path.display())]
    Owned {
        /// The folder.
        path: PathBuf,
    },
    /// `cache_limit` can't hold what the job needs at the same time.
    #[error(
        "cache_limit of {limit_bytes} bytes is too small: {needed_bytes} bytes is the least that works here ({what})"
    )]
    QuotaTooSmall {
        /// The limit as configured.
        limit_bytes: u64,
        /// The least that would do.
        needed_bytes: u64,
        /// What needs it.
        what: String,
    },
    /// `host_memory_limit` can't hold what the job needs at the same time.
    #[error(
        "host_memory_limit of {limit_bytes} bytes is too small: {needed_bytes} bytes is the least that works here ({what})"
    )]
    MemoryTooSmall {
        /// The limit as configured.
        limit_bytes: u64,
        /// The least that would do.
        needed_bytes: u64,
        /// What needs it.
        what: String,
    },
    /// An I/O operation on the cache's own files failed.
    #[error("{}: {what}", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// The operating system's answer.
        source: Cause,
    },
    /// The process that owns the cache folder and this client don't understand each other.
    #[error("the owner of the cache folder: {message}")]
    Protocol {
        /// What was unexpected.
        message: String,
    },
    /// The cache was closed while the operation waited.
    #[error("the cache was closed")]
    Closed,
    /// The process forked after the cache started; its threads don't exist in the child.
    #[error(
        "this process forked after the cache was opened, and the cache's threads do not survive fork(); open it in the child, or start workers with 'spawn'"
    )]
    Forked,
}

impl Error {
    /// A configuration error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into() }
    }
}

fn seconds(after: &Duration) -> String {
    format!("{:.1} s", after.as_secs_f64())
}
