//! Names of bytes: where an object lives, which version of it is meant, and which part.
//!
//! Cached bytes belong to an [`ObjectId`], never to a [`Location`]: an object that changes at the origin gets another
//! id, so a stale byte can't be served under a name that has moved on.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Bytes of one cache block: large enough for NVMe and S3 to run at full speed, small enough to start before a shard
/// is down. One page of granule checksums (1,024 × 4 bytes) covers exactly one block.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// Bytes under one checksum, so that a small sample is read and verified without its whole block. Also the
/// alignment that direct I/O asks of every disk met so far.
pub const GRANULE_BYTES: u64 = 4 << 10;

/// Granules in a full block.
pub const GRANULES_PER_BLOCK: usize = (BLOCK_BYTES / GRANULE_BYTES) as usize;

/// Where an object lives: an absolute URL such as `s3://bucket/key` or `file:///data/a.tar`.
///
/// Holds no credentials: user information is refused when a URL is parsed, and query strings (signed URLs) are not
/// shown by `Display`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location(Arc<str>);

impl Location {
    /// Wraps a URL that a resolver (`origin`) has already made absolute.
    pub fn new(url: impl Into<Arc<str>>) -> Self {
        Self(url.into())
    }

    /// The whole URL, with its query. Not for logs: use `Display`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a URL of HTTP or HTTPS. These alone have queries: keys of stores are taken as they stand, and `file://` URLs are escaped.
    pub fn is_http(&self) -> bool {
        self.0.starts_with("http://") || self.0.starts_with("https://")
    }

    /// All of it but an HTTP URL's query.
    pub fn without_query(&self) -> &str {
        match self.0.split_once('?') {
            Some((path, _)) if self.is_http() => path,
            _ => &self.0,
        }
    }

    /// The last part of the path: `train-000000.tar` of `s3://photos/train-000000.tar`.
    pub fn file_name(&self) -> &str {
        self.without_query().rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('?') {
            Some((path, _)) => write!(f, "{path}?…"),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What tells one version of an object from another, strongest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// The store's entity tag, as it was given (quotes included).
    Etag(String),
    /// The store's version id.
    Id(String),
    /// Neither exists: modification time in nanoseconds since 1970 stands in, with the size.
    Modified(i128),
    /// A local file: modification time and inode stand in, with the size.
    File {
        /// Nanoseconds since 1970.
        modified_ns: i128,
        /// The inode's number: a file renamed over another is another version, also where its time was set back.
        inode: u64,
    },
}

impl Version {
    /// True where the origin vouches for no version, and time and size stand in.
    pub fn is_stand_in(&self) -> bool {
        matches!(self, Self::Modified(_) | Self::File { .. })
    }
}

/// One version of one object, as the origin described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Where it lives.
    pub location: Location,
    /// Its whole size.
    pub size_bytes: u64,
    /// Which version.
    pub version: Version,
    /// The identity of its bytes; the key of everything cached.
    pub id: ObjectId,
}

impl ObjectMeta {
    /// Describes an object; the id follows from the other fields.
    pub fn new(location: Location, size_bytes: u64, version: Version) -> Self {
        let id = ObjectId::of(&location, size_bytes, &version);
        Self { location, size_bytes, version, id }
    }

    /// Number of blocks, the last one short.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
    }

    /// The bytes of block `index`, cut at the end of the object.
    pub fn block_range(&self, index: u32) -> ByteRange {
        let start = u64::from(index) * BLOCK_BYTES;
        ByteRange::new(start.min(self.size_bytes), (start + BLOCK_BYTES).min(self.size_bytes))
    }
}

/// 128 bits of blake3 over store and key, version and size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ObjectId([u8; 16]);

impl ObjectId {
    fn of(location: &Location, size_bytes: u64, version: &Version) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("forebay object id 1");
        let (tag, text) = match version {
            Version::Etag(etag) => (0u8, etag.clone()),
            Version::Id(id) => (1, id.clone()),
            Version::Modified(ns) => (2, ns.to_string()),
            Version::File { modified_ns, inode } => (3, format!("{modified_ns} {inode}")),
        };
        for part in [location.as_str().as_bytes(), &[tag], text.as_bytes(), &size_bytes.to_le_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        Self(id)
    }

    /// The id's bytes, as stored in the block index and sent over the cache's socket.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// An id from the bytes that [`Self::as_bytes`] gave.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ObjectId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for ObjectId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an object id: 32 hexadecimal digits were expected");
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

/// A half-open range of bytes inside an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`; an end before the start is an empty range at `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// True where there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The indexes of the blocks that hold these bytes.
    pub fn blocks(&self) -> Range<u32> {
        if self.is_empty() {
            return 0..0;
        }
        let index = |block: u64| u32::try_from(block).unwrap_or(u32::MAX);
        index(self.start / BLOCK_BYTES)..index(self.end.div_ceil(BLOCK_BYTES))
    }

    /// The part that both ranges hold.
    pub fn intersect(&self, other: ByteRange) -> ByteRange {
        ByteRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The smallest range of whole granules around these bytes; its end may lie behind the object's.
    pub fn granules(&self) -> ByteRange {
        if self.is_empty() {
            return *self;
        }
        ByteRange::new(
            self.start / GRANULE_BYTES * GRANULE_BYTES,
            self.end.div_ceil(GRANULE_BYTES) * GRANULE_BYTES,
        )
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One block of one version of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// Which object.
    pub object: ObjectId,
    /// Which block of it.
    pub index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_etag_is_another_object() {
        let at = Location::new("s3://bucket/a.tar");
        let one = ObjectMeta::new(at.clone(), 10, Version::Etag("\"1\"".into()));
        let two = ObjectMeta::new(at, 10, Version::Etag("\"2\"".into()));
        assert_ne!(one.id, two.id);
        assert_eq!(one.id.to_string().parse(), Ok(one.id));
    }

    #[test]
    fn a_range_knows_its_blocks_and_granules() {
        let range = ByteRange::new(BLOCK_BYTES - 1, BLOCK_BYTES + 1);
        assert_eq!(range.blocks(), 0..2);
        assert_eq!(
            range.granules(),
            ByteRange::new(BLOCK_BYTES - GRANULE_BYTES, BLOCK_BYTES + GRANULE_BYTES)
        );
        assert_eq!(ByteRange::new(7, 7).blocks(), 0..0);
    }

    #[test]
    fn a_signed_url_is_not_shown() {
        let shown = Location::new("https://host/a.tar?X-Amz-Signature=abc").to_string();
        assert!(!shown.contains("abc"), "{shown}");
        assert_eq!(Location::new("https://host/d/a.tar?sig=1/2").file_name(), "a.tar");
        assert_eq!(Location::new("s3://photos/what?/a#1.tar").file_name(), "a#1.tar");
        assert_eq!(Location::new("https://host/d/a.tar?sig=1/2").without_query(), "https://host/d/a.tar");
        assert_eq!(Location::new("s3://photos/what?/a.tar").without_query(), "s3://photos/what?/a.tar");
    }
}
