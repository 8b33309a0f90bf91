//! One crc32c per granule, one page of them per block, and one crc over the page.

use std::fmt;

use crate::crc::{crc32c, crc32c_of};
use crate::object::{GRANULE_BYTES, GRANULES_PER_BLOCK};

/// Bytes of a page of checksums as it lies in the `.crc` file.
pub(crate) const PAGE_BYTES: usize = GRANULES_PER_BLOCK * 4;

/// The checksums of one block: granule `i` of the block has `crc(i)`. The last granule of an object counts as padded with zeros, and
/// granules behind the end of the object have 0.
#[derive(Clone, PartialEq, Eq)]
pub struct CrcPage(Box<[u8; PAGE_BYTES]>);

impl CrcPage {
    /// Computes the page of a block; a last granule that is short counts as padded with zeros.
    pub fn of(block: &[u8]) -> Self {
        let mut page = Box::new([0; PAGE_BYTES]);
        for (granule, entry) in block.chunks(GRANULE_BYTES as usize).zip(page.chunks_exact_mut(4)) {
            entry.copy_from_slice(&granule_crc(granule).to_le_bytes());
        }
        Self(page)
    }

    /// Wraps a page as it was stored or sent. None where the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let page: [u8; PAGE_BYTES] = bytes.try_into().ok()?;
        Some(Self(Box::new(page)))
    }

    /// The page as it is stored and sent: little-endian crc32c values.
    pub fn as_bytes(&self) -> &[u8] {
        &*self.0
    }

    /// The page's own crc, as the block index and every grant hold it.
    pub fn crc(&self) -> u32 {
        crc32c(&*self.0)
    }

    /// The first granule from `first` on that doesn't match, as its number in the block; none where all is well. `bytes` are whole granules;
    /// a short last one counts as padded.
    pub fn mismatch(&self, first: usize, bytes: &[u8]) -> Option<usize> {
        bytes
            .chunks(GRANULE_BYTES as usize)
            .enumerate()
            .map(|(at, granule)| (first + at, granule))
            .find(|(at, granule)| self.granule(*at) != Some(granule_crc(granule)))
            .map(|(at, _)| at)
    }

    fn granule(&self, at: usize) -> Option<u32> {
        let entry = self.0.get(at * 4..at * 4 + 4)?;
        Some(u32::from_le_bytes(entry.try_into().ok()?))
    }
}

impl fmt::Debug for CrcPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrcPage({:08x})", self.crc())
    }
}

fn granule_crc(granule: &[u8]) -> u32 {
    const ZEROS: [u8; GRANULE_BYTES as usize] = [0; GRANULE_BYTES as usize];
    match GRANULE_BYTES as usize - granule.len() {
        0 => crc32c(granule),
        missing => crc32c_of(&[granule, &ZEROS[..missing]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_names_its_granule() {
        let mut block: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let page = CrcPage::of(&block);
        assert_eq!(page.mismatch(0, &block), None);
        assert_eq!(page.mismatch(1, &block[4096..12288]), None);
        block[9000] ^= 1;
        assert_eq!(page.mismatch(0, &block), Some(2));
    }

    #[test]
    fn a_short_last_granule_counts_as_padded() {
        let page = CrcPage::of(&[7; 5000]);
        let mut padded = vec![7; 5000];
        padded.resize(8192, 0);
        assert_eq!(page.mismatch(0, &padded), None);
        assert_eq!(page, CrcPage::of(&padded));
        assert_eq!(CrcPage::from_bytes(page.as_bytes()).unwrap().crc(), page.crc());
    }
}
