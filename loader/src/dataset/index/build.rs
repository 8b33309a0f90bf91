//! Writes an index while a shard goes by.

use std::collections::HashMap;

use forebay_cache::crc::crc32c;
use forebay_cache::{Lease, ObjectId};

use super::{BLOCK_SAMPLES, HEADER_BYTES, MAGIC, ShardIndex, VERSION, checksum, corrupt, padded_end, varint};
use crate::dataset::sample::{MemberEntry, SampleEntry};
use crate::dataset::tar::BLOCK;
use crate::dataset::{Malformed, shown};

/// Takes the samples of a shard in storage order; memory grows by what the index will have on disk.
#[derive(Debug, Default)]
pub struct ShardIndexBuilder {
    suffix_ids: HashMap<Vec<u8>, u64>,
    suffix_table: Vec<u8>,
    directory: Vec<u8>,
    blocks: Vec<u8>,
    block: Vec<u8>,
    /// Where the gap of the block's first member is counted from.
    base: u64,
    /// Padded end of the last member.
    end: u64,
    last_key: Vec<u8>,
    samples: u64,
    members: u64,
}

impl ShardIndexBuilder {
    /// For one shard.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample. Fails where its members don't lie behind all others, each with room for a header: no archive is so, but a
    /// sidecar can claim it.
    pub fn push(&mut self, sample: &SampleEntry) -> Result<(), Malformed> {
        let members = &sample.members;
        if members.is_empty() {
            return Err(Malformed::new(
                self.end,
                format!("sample {} has no members", shown(sample.key_bytes())),
            ));
        }
        let mut end = self.end;
        for member in members {
            end = self.check(sample, member, end)?;
        }
        if self.samples.is_multiple_of(BLOCK_SAMPLES) {
            self.end_block();
        }
        let same =
            sample.key_bytes().iter().zip(&self.last_key).take_while(|(one, other)| one == other).count();
        let other = &sample.key_bytes()[same..];
        for number in [members.len() as u64, same as u64, other.len() as u64] {
            varint::put(&mut self.block, number);
        }
        self.block.extend_from_slice(other);
        for member in members {
            self.put_member(member);
        }
        sample.key_bytes().clone_into(&mut self.last_key);
        self.samples += 1;
        self.members += members.len() as u64;
        Ok(())
    }

    /// Samples so far.
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// True before the first sample.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// The index of the shard `object`, whose (decompressed) size is `stream_bytes`.
    pub fn finish(mut self, object: ObjectId, stream_bytes: u64) -> Result<ShardIndex, Malformed> {
        self.end_block();
        let mut bytes = Vec::with_capacity(
            HEADER_BYTES + self.suffix_table.len() + self.directory.len() + self.blocks.len(),
        );
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(object.as_bytes());
        for number in [stream_bytes, self.samples, self.members, self.suffix_table.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.suffix_table);
        bytes.extend_from_slice(&self.directory);
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&self.blocks);
        ShardIndex::from_bytes(Lease::from_vec(bytes), object)
    }

    fn check(&self, sample: &SampleEntry, member: &MemberEntry, end: u64) -> Result<u64, Malformed> {
        let MemberEntry { data_offset, size, .. } = *member;
        let name = || shown(&sample.name_bytes(member));
        if data_offset % BLOCK as u64 != 0 || data_offset < end.saturating_add(BLOCK as u64) {
            let what = format!(
                "member {} can't have its data at byte {data_offset}: the member before it ends at byte {end}, and data starts behind a header at a multiple of {BLOCK}",
                name()
            );
            return Err(Malformed::new(data_offset, what));
        }
        padded_end(data_offset, size).ok_or_else(|| {
            corrupt(0, &format!("member {} can't have {size} bytes at byte {data_offset}", name()))
        })
    }

    fn put_member(&mut self, member: &MemberEntry) {
        let raw = member.suffix.raw();
        let id = match self.suffix_ids.get(raw) {
            Some(id) => *id,
            None => {
                let id = self.suffix_ids.len() as u64;
                varint::put(&mut self.suffix_table, raw.len() as u64);
                self.suffix_table.extend_from_slice(raw);
                self.suffix_ids.insert(raw.to_vec(), id);
                id
            }
        };
        let gap = (member.data_offset - self.end) / BLOCK as u64;
        for number in [id, gap, member.size] {
            varint::put(&mut self.block, number);
        }
        self.end = padded_end(member.data_offset, member.size).unwrap_or(self.end);
    }

    /// Closes the block that is being written, if any, and starts the next one.
    fn end_block(&mut self) {
        if !self.block.is_empty() {
            self.directory.extend_from_slice(&(self.blocks.len() as u64).to_le_bytes());
            self.directory.extend_from_slice(&self.base.to_le_bytes());
            self.directory.extend_from_slice(&crc32c(&self.block).to_le_bytes());
            self.blocks.append(&mut self.block);
        }
        self.base = self.end;
        self.last_key.clear();
    }
}
