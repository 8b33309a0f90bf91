//! Reads granted blocks: whole granules by the ring, checked, sliced to what was asked.
//!
//! The owner of the folder and its clients read by this. Checksums run on the thread that polls: about 0.1 ms per MiB.

use std::io;

use super::grant::Grant;
use crate::error::Result;
use crate::io::BlockIo;
use crate::memory::{Lease, Region, Slab};
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, GRANULE_BYTES};

/// Why granted bytes could not be had from the disk. The owner quarantines the block; the reader gets it elsewhere.
#[derive(Debug)]
pub enum ReadFault {
    /// The bytes are not those that were written.
    Mismatch {
        /// The block.
        block: BlockId,
        /// First bad granule, as a byte offset in the object.
        offset: u64,
    },
    /// The operating system could not read them.
    Io {
        /// The first block of the read.
        block: BlockId,
        /// Its answer.
        error: io::Error,
    },
}

impl ReadFault {
    /// The block that is to be taken out of service.
    pub fn block(&self) -> BlockId {
        match self {
            Self::Mismatch { block, .. } | Self::Io { block, .. } => *block,
        }
    }
}

/// Bytes of memory that a read of `range` needs: whole granules.
pub fn slab_bytes(range: ByteRange) -> Result<usize> {
    usize::try_from(range.granules().len()).map_err(|_| crate::Error::Closed)
}

/// Reads the grant's range into a slab of `region`. The outer error is about memory, the inner one about the disk.
pub async fn read(grant: &Grant, io: &dyn BlockIo, region: &Region) -> Result<Result<Lease, ReadFault>> {
    let slab = region.allocate(slab_bytes(grant.range)?).await?;
    let (slab, outcome) = read_into(grant, io, slab).await;
    let lease = outcome.map(|()| {
        let head = (grant.range.start - grant.range.granules().start) as usize;
        slab.map(|slab| slab.freeze().slice(head..head + grant.range.len() as usize))
    });
    match lease {
        Ok(Some(lease)) => Ok(Ok(lease)),
        Ok(None) => Err(crate::Error::Closed),
        Err(fault) => Ok(Err(fault)),
    }
}

/// Reads the whole granules around the grant's range to the start of `slab` and checks them. The slab comes back unless the I/O thread
/// has ended, with its visible length as it was.
pub async fn read_into(grant: &Grant, io: &dyn BlockIo, slab: Slab) -> (Option<Slab>, Result<(), ReadFault>) {
    let whole = grant.range.granules();
    let (Some(first), Ok(len)) = (grant.blocks.first(), usize::try_from(whole.len())) else {
        return (Some(slab), Ok(()));
    };
    let block = BlockId { object: grant.object.id, index: first.index };
    let (slab, result) = crate::io::read(io, &grant.file, whole.start, len, slab).await;
    let fault = |error| Err(ReadFault::Io { block, error });
    let (Some(mut slab), filled) = (match (slab, result) {
        (slab, Ok(filled)) => (slab, filled),
        (slab, Err(error)) => return (slab, fault(error)),
    }) else {
        return (None, fault(io::Error::other("the I/O thread ended")));
    };
    // The file ends with the object; the granule that holds its end counts as padded.
    let stored = (grant.object.size_bytes.min(whole.end) - whole.start) as usize;
    if filled < stored {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its object");
        return (Some(slab), fault(error));
    }
    let visible = slab.len();
    slab.set_len(len);
    slab[stored..].fill(0);
    let checked = check(grant, whole, &slab);
    slab.set_len(visible);
    (Some(slab), checked)
}

fn check(grant: &Grant, whole: ByteRange, bytes: &[u8]) -> Result<(), ReadFault> {
    for block in &grant.blocks {
        let start = u64::from(block.index) * BLOCK_BYTES;
        let part = whole.intersect(ByteRange::new(start, start + BLOCK_BYTES));
        let first = ((part.start - start) / GRANULE_BYTES) as usize;
        let piece = &bytes[(part.start - whole.start) as usize..(part.end - whole.start) as usize];
        if let Some(bad) = block.page.mismatch(first, piece) {
            let block = BlockId { object: grant.object.id, index: block.index };
            return Err(ReadFault::Mismatch { block, offset: start + bad as u64 * GRANULE_BYTES });
        }
    }
    Ok(())
}
