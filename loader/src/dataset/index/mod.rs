//! The index of a shard: which samples it has, and where their members lie.
//!
//! Belongs to an [`ObjectId`]: an index of another version of the shard is refused. Compact (about 7 bytes a member for usual names),
//! and read by blocks of [`BLOCK_SAMPLES`] samples, so that a window of samples costs what it holds, not what the shard holds.
//!
//! # Format, version 1, little-endian
//!
//! ```text
//! 0   8  magic "FBYSIDX\0"
//! 8   4  version
//! 12  4  crc32c of everything before the blocks, with zeros here
//! 16  16 object id
//! 32  8  bytes of the (decompressed) shard
//! 40  8  samples
//! 48  8  members
//! 56  8  bytes of the suffix table
//! 64     suffix table: for each suffix a varint length and its bytes
//!        directory: for each block its start behind the directory (8), where its first gap is counted from (8), its crc32c (4)
//!        blocks: for each sample
//!            varint members, varint bytes shared with the key before (0 at the start of a block), varint other bytes, these
//!            for each member: varint suffix, varint gap, varint size
//! ```
//!
//! A gap is the distance in tar blocks (512 bytes) from the padded end of the member before to the member's data: 1 where only a plain
//! header lies between. Varints are LEB128.
//!
//! Corrupt bytes give an error, never a panic. Nothing is allocated by what they claim: a block takes what its bytes account for, and keys of
//! at most 1 MiB each.

use std::ops::Range;

use forebay_cache::crc::{crc32c, crc32c_of};
use forebay_cache::{Lease, ObjectId};

use super::Malformed;
use super::sample::{MemberEntry, SampleEntry, Suffix};
use super::tar::{BLOCK, LONGEST_EXTENDED};
use varint::Reader;

mod build;
mod varint;

pub use build::ShardIndexBuilder;

/// Samples in a block: few enough that one sample costs little, enough that keys share prefixes and the directory stays small.
pub const BLOCK_SAMPLES: u64 = 64;

const MAGIC: &[u8; 8] = b"FBYSIDX\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const DIRECTORY_ENTRY_BYTES: usize = 20;

/// The samples of one version of one shard.
#[derive(Clone, Debug)]
pub struct ShardIndex {
    bytes: Lease,
    object: ObjectId,
    stream_bytes: u64,
    samples: u64,
    members: u64,
    suffixes: Vec<Suffix>,
    directory: Range<usize>,
    claimed: bool,
}

impl ShardIndex {
    /// Reads an index and checks it, its blocks excepted: those are checked when they are used.
    ///
    /// Fails where it is corrupt, of another version of the format, or belongs to another object. Then it is to be made anew.
    pub fn from_bytes(bytes: Lease, object: ObjectId) -> Result<Self, Malformed> {
        let bad = |offset: usize, what: &str| corrupt(offset, what);
        let header =
            bytes.get(..HEADER_BYTES).ok_or_else(|| bad(bytes.len(), "it is shorter than its header"))?;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        if header[..8] != *MAGIC {
            return Err(bad(0, "it does not begin as one"));
        }
        if word(8) != VERSION {
            return Err(bad(8, &format!("it is of format {}, this program reads {VERSION}", word(8))));
        }
        let found = ObjectId::from_bytes(std::array::from_fn(|i| header[16 + i]));
        let (stream_bytes, samples, members, table) = (long(32), long(40), long(48), long(56));
        let layout = usize::try_from(table).ok().and_then(|table| {
            let directory = HEADER_BYTES.checked_add(table)?;
            let blocks = usize::try_from(samples.div_ceil(BLOCK_SAMPLES)).ok()?;
            let end = directory.checked_add(blocks.checked_mul(DIRECTORY_ENTRY_BYTES)?)?;
            (end <= bytes.len()).then_some(directory..end)
        });
        let directory = layout.ok_or_else(|| bad(bytes.len(), "it is shorter than its header says"))?;
        if word(12) != checksum(&bytes[..directory.end]) {
            return Err(bad(12, "its checksum is wrong"));
        }
        if found != object {
            return Err(bad(16, &format!("it belongs to object {found}, not to {object}")));
        }
        let suffixes = suffixes(&bytes[HEADER_BYTES..directory.start])
            .map_err(|at| bad(HEADER_BYTES + at, "its suffix table is broken"))?;
        Ok(Self { bytes, object, stream_bytes, samples, members, suffixes, directory, claimed: false })
    }

    /// The index as it is kept: what [`Self::from_bytes`] reads.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same index, as one that a sidecar claims.
    pub fn claimed(mut self) -> Self {
        self.claimed = true;
        self
    }

    /// True where only a sidecar says that members lie where the index says: a reader checks their headers.
    pub fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// The object that it belongs to.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// True for a shard without samples.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Number of members of all samples.
    pub fn members(&self) -> u64 {
        self.members
    }

    /// Bytes of the shard, decompressed.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// Every suffix that a member of the shard has.
    pub fn suffixes(&self) -> &[Suffix] {
        &self.suffixes
    }

    /// The samples of these numbers, in storage order; reads the blocks that hold them.
    ///
    /// Fails where a block is corrupt, and where the shard has fewer samples.
    pub fn samples(&self, range: Range<u64>) -> Result<Vec<SampleEntry>, Malformed> {
        if range.start > range.end || range.end > self.samples {
            let what =
                format!("samples {}..{} were asked for, it has {}", range.start, range.end, self.samples);
            return Err(corrupt(0, &what));
        }
        let mut entries = Vec::new();
        if range.is_empty() {
            return Ok(entries);
        }
        for block in range.start / BLOCK_SAMPLES..range.end.div_ceil(BLOCK_SAMPLES) {
            let first = block * BLOCK_SAMPLES;
            let wanted = range.start.saturating_sub(first)..(range.end - first).min(BLOCK_SAMPLES);
            self.block(block, wanted, &mut entries)?;
        }
        Ok(entries)
    }

    fn entry(&self, block: u64) -> Option<(usize, u64, u32)> {
        let at = self.directory.start + usize::try_from(block).ok()?.checked_mul(DIRECTORY_ENTRY_BYTES)?;
        let entry = self.bytes[..self.directory.end].get(at..at + DIRECTORY_ENTRY_BYTES)?;
        let start = u64::from_le_bytes(std::array::from_fn(|i| entry[i]));
        let base = u64::from_le_bytes(std::array::from_fn(|i| entry[8 + i]));
        let crc = u32::from_le_bytes(std::array::from_fn(|i| entry[16 + i]));
        Some((self.directory.end.checked_add(usize::try_from(start).ok()?)?, base, crc))
    }

    /// Adds the wanted ones of a block's samples, counted from its first.
    fn block(&self, block: u64, wanted: Range<u64>, entries: &mut Vec<SampleEntry>) -> Result<(), Malformed> {
        let found = self.entry(block).and_then(|(start, base, crc)| {
            let end = self.entry(block + 1).map_or(self.bytes.len(), |(end, ..)| end);
            Some((start, base, crc, self.bytes.get(start..end)?))
        });
        let (start, base, crc, bytes) = found
            .ok_or_else(|| corrupt(self.directory.start, &format!("block {block} lies outside of it")))?;
        if crc != crc32c(bytes) {
            return Err(corrupt(start, &format!("the checksum of block {block} is wrong")));
        }
        let whole = wanted.end == (self.samples - block * BLOCK_SAMPLES).min(BLOCK_SAMPLES);
        let mut reader = Reader::new(bytes);
        self.decode(&mut reader, base, wanted, entries)
            .filter(|()| !whole || reader.is_empty())
            .ok_or_else(|| corrupt(start + reader.position(), &format!("block {block} can't be decoded")))
    }

    /// Those before the wanted ones are only passed over.
    fn decode(
        &self,
        reader: &mut Reader<'_>,
        base: u64,
        wanted: Range<u64>,
        samples: &mut Vec<SampleEntry>,
    ) -> Option<()> {
        let mut end = base;
        let mut key = Vec::new();
        for number in 0..wanted.end {
            let members = reader.number()?;
            let shared = usize::try_from(reader.number()?).ok().filter(|&shared| shared <= key.len())?;
            let other = usize::try_from(reader.number()?).ok()?;
            key.truncate(shared);
            key.extend_from_slice(reader.bytes(other)?);
            if members == 0 || key.len() as u64 > LONGEST_EXTENDED {
                return None;
            }
            let is_wanted = wanted.contains(&number);
            // Not reserved by what is claimed: every member takes three bytes of the block at least.
            let mut entries = Vec::new();
            for _ in 0..members {
                let suffix = self.suffixes.get(usize::try_from(reader.number()?).ok()?)?;
                let data_offset = end.checked_add(reader.number()?.checked_mul(BLOCK as u64)?)?;
                let size = reader.number()?;
                if data_offset.checked_add(size)? > self.stream_bytes {
                    return None;
                }
                end = padded_end(data_offset, size)?;
                if is_wanted {
                    entries.push(MemberEntry { suffix: suffix.clone(), data_offset, size });
                }
            }
            if is_wanted {
                samples.push(SampleEntry::new(&key, entries));
            }
        }
        Some(())
    }
}

/// Where the data's padding ends.
fn padded_end(data_offset: u64, size: u64) -> Option<u64> {
    data_offset.checked_add(size)?.checked_next_multiple_of(BLOCK as u64)
}

fn suffixes(table: &[u8]) -> Result<Vec<Suffix>, usize> {
    let mut reader = Reader::new(table);
    let mut suffixes = Vec::new();
    while !reader.is_empty() {
        let bytes = reader.number().and_then(|length| reader.bytes(usize::try_from(length).ok()?));
        suffixes.push(Suffix::new(bytes.ok_or(reader.position())?));
    }
    Ok(suffixes)
}

fn checksum(front: &[u8]) -> u32 {
    crc32c_of(&[&front[..12], &[0; 4], &front[16..]])
}

fn corrupt(offset: usize, what: &str) -> Malformed {
    Malformed::new(offset as u64, format!("the shard's index: {what}"))
}

#[cfg(test)]
mod tests;
