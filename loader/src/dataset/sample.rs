//! What an index says of a sample: its key, and where its members lie in the shard.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use forebay_cache::ByteRange;

use super::tar::BLOCK;

/// What follows the key in a member's name: `jpg`, `seg.png`. Compared in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct Suffix {
    raw: Arc<[u8]>,
    lower: Arc<str>,
}

impl Suffix {
    /// A suffix as the archive spells it, without the dot before it.
    pub fn new(raw: &[u8]) -> Self {
        Self { raw: raw.into(), lower: String::from_utf8_lossy(raw).to_lowercase().into() }
    }

    /// In lower case; lossy where it is not UTF-8.
    pub fn as_str(&self) -> &str {
        &self.lower
    }

    /// As the archive spells it.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

impl fmt::Debug for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw))
    }
}

/// One member of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    /// Which part of the sample it is.
    pub suffix: Suffix,
    /// Where its data starts in the (decompressed) shard, in bytes.
    pub data_offset: u64,
    /// Bytes of its data.
    pub size: u64,
}

impl MemberEntry {
    /// The bytes of its data.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.data_offset, self.data_offset.saturating_add(self.size))
    }

    /// The header block right before its data; extended headers lie before that.
    pub fn header_offset(&self) -> u64 {
        self.data_offset.saturating_sub(BLOCK as u64)
    }
}

/// One sample of a shard: members with the same key, in the archive's order. It has one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleEntry {
    key: Box<[u8]>,
    /// Its members, by ascending offset.
    pub members: Vec<MemberEntry>,
}

impl SampleEntry {
    /// A sample with the key as the archive spells it.
    pub fn new(key: &[u8], members: Vec<MemberEntry>) -> Self {
        Self { key: key.into(), members }
    }

    /// Its key, directory included; lossy where it is not UTF-8. A label: what tells samples apart is (shard, number in it).
    pub fn key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// Its key's bytes.
    pub fn key_bytes(&self) -> &[u8] {
        &self.key
    }

    /// Where its first member's header block starts.
    pub fn header_offset(&self) -> u64 {
        self.members.first().map_or(0, MemberEntry::header_offset)
    }

    /// From its first member's header to the end of its last one's data.
    pub fn range(&self) -> ByteRange {
        let end = self.members.last().map_or(0, |last| last.range().end);
        ByteRange::new(self.header_offset(), end)
    }

    /// The member for a field: the first of these suffixes (lower case) that it has.
    pub fn member(&self, suffixes: &[impl AsRef<str>]) -> Option<&MemberEntry> {
        let with = |suffix: &str| self.members.iter().find(|member| member.suffix.as_str() == suffix);
        suffixes.iter().find_map(|suffix| with(suffix.as_ref()))
    }

    /// A member's name in the archive, as bytes.
    pub fn name_bytes(&self, member: &MemberEntry) -> Vec<u8> {
        [&self.key, &b"."[..], member.suffix.raw()].concat()
    }

    /// A member's name in the archive, for a message; lossy where it is not UTF-8.
    pub fn name(&self, member: &MemberEntry) -> String {
        String::from_utf8_lossy(&self.name_bytes(member)).into_owned()
    }
}
