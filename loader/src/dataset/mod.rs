//! Shards → samples: one file per format; the sample index.
//!
//! Everything here takes bytes and gives facts: no file is opened and no network is asked, so that every source of bytes (cache,
//! origin, a test) goes the same way. Offsets are those of the tar stream: for a gzip shard, of the decompressed one.
//!
//! source strings → [`urls`] → shards; a shard's bytes → [`gzip`] → [`tar`] → [`webdataset`] → samples → [`index`]. A
//! [`sidecar`] gives the same index without the bytes, [`wids`] gives counts only.
//!
//! Names in archives are labels: they are compared and shown, and never become paths.

use std::fmt;

use forebay_cache::Location;

pub mod gzip;
pub mod index;
pub mod sample;
pub mod sidecar;
pub mod tar;
pub mod urls;
pub mod webdataset;
pub mod wids;

pub use gzip::GzipDecoder;
pub use index::{ShardIndex, ShardIndexBuilder};
pub use sample::{MemberEntry, SampleEntry, Suffix};
pub use tar::TarScanner;
pub use urls::{Pattern, Surroundings};
pub use webdataset::Grouper;

/// Bytes that are not what they claim to be: where, and what to do about it. The parsers here don't know whose bytes they read;
/// [`Malformed::at`] adds that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte offset in what was parsed.
    pub offset: u64,
    /// What is wrong and what to do.
    pub what: String,
}

impl Malformed {
    /// Something wrong at `offset`.
    pub fn new(offset: u64, what: impl Into<String>) -> Self {
        Self { offset, what: what.into() }
    }

    /// The crate's error, naming the object that holds these bytes.
    pub fn at(self, location: &Location) -> crate::Error {
        crate::Error::Shard { location: location.clone(), offset: self.offset, what: self.what }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.offset, self.what)
    }
}

impl std::error::Error for Malformed {}

/// A name from an archive for a message: lossy where it is not UTF-8, escaped, and cut where it is very long.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(&name[..name.len().min(LONGEST)]);
    match name.len() > LONGEST {
        true => format!("{text:?}… ({} bytes)", name.len()),
        false => format!("{text:?}"),
    }
}
