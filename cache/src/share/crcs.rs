//! Checksums of a range as they travel: one crc32c per granule, in order.

use crate::disk::{CrcPage, Grant};
use crate::object::{BLOCK_BYTES, ByteRange, GRANULE_BYTES};

/// The checksums of granules that lie in memory; a short last one counts as padded with zeros, as everywhere.
pub(crate) fn of_bytes(bytes: &[u8]) -> Vec<u32> {
    let pages = bytes.chunks(BLOCK_BYTES as usize).map(|chunk| (CrcPage::of(chunk), chunk));
    pages.flat_map(|(page, chunk)| entries(&page, 0, chunk.len().div_ceil(GRANULE_BYTES as usize))).collect()
}

/// The checksums of the granules of `range`, out of a grant that holds it. None where it doesn't.
pub(crate) fn of_grant(grant: &Grant, range: ByteRange) -> Option<Vec<u32>> {
    let granules = range.granules();
    let mut crcs = Vec::new();
    let first = grant.blocks.first()?.index;
    for index in range.blocks() {
        let block = grant.blocks.get(index.checked_sub(first)? as usize)?;
        let start = u64::from(index) * BLOCK_BYTES;
        let part = granules.intersect(ByteRange::new(start, start + BLOCK_BYTES));
        let first = usize::try_from((part.start - start) / GRANULE_BYTES).ok()?;
        let count = usize::try_from(part.len() / GRANULE_BYTES).ok()?;
        crcs.extend(entries(&block.page, first, count));
    }
    Some(crcs)
}

/// Checksums as they travel in a file of memory.
pub(crate) fn to_bytes(crcs: &[u32]) -> Vec<u8> {
    crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect()
}

/// The reverse of [`to_bytes`].
pub(crate) fn from_bytes(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|entry| entry.iter().rev().fold(0, |crc, byte| crc << 8 | u32::from(*byte)))
        .collect()
}

/// The first granule that is not what it should be, as an offset in `bytes`.
pub(crate) fn mismatch(bytes: &[u8], crcs: &[u32]) -> Option<u64> {
    let found = of_bytes(bytes);
    if found.len() != crcs.len() {
        return Some(found.len().min(crcs.len()) as u64 * GRANULE_BYTES);
    }
    found.iter().zip(crcs).position(|(found, crc)| found != crc).map(|at| at as u64 * GRANULE_BYTES)
}

fn entries(page: &CrcPage, first: usize, count: usize) -> Vec<u32> {
    from_bytes(&page.as_bytes()[first * 4..(first + count) * 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_in_its_granule_also_in_a_second_block() {
        let mut bytes: Vec<u8> = (0..BLOCK_BYTES as usize + 5000).map(|i| (i % 253) as u8).collect();
        let crcs = of_bytes(&bytes);
        assert_eq!(crcs.len(), 1024 + 2);
        assert_eq!(mismatch(&bytes, &crcs), None);
        assert_eq!(mismatch(&bytes[..bytes.len() - 1], &crcs), Some(BLOCK_BYTES + GRANULE_BYTES));
        bytes[BLOCK_BYTES as usize + 4500] ^= 1;
        assert_eq!(mismatch(&bytes, &crcs), Some(BLOCK_BYTES + GRANULE_BYTES));
        assert_eq!(mismatch(&bytes, &crcs[..1]), Some(GRANULE_BYTES));
    }
}
