//! The right to read blocks where they lie on disk.
//!
//! Who may read what (the owner of the folder decides) is separate from reading ([`super::reader`]): the owner and its
//! clients read by the same code.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::checksum::CrcPage;
use crate::io::IoFile;
use crate::object::{ByteRange, ObjectMeta};

/// Blocks that are neither punched nor rewritten for as long as this is held.
#[derive(Clone)]
pub struct Grant {
    /// The object's data file.
    pub file: Arc<IoFile>,
    /// Which object.
    pub object: Arc<ObjectMeta>,
    /// The bytes that may be read.
    pub range: ByteRange,
    /// The blocks that hold them, in order, without gaps.
    pub blocks: Vec<BlockGrant>,
    guard: Arc<dyn Any + Send + Sync>,
}

/// One block of a grant.
#[derive(Clone, Debug)]
pub struct BlockGrant {
    /// Which block of the object.
    pub index: u32,
    /// Its checksums.
    pub page: Arc<CrcPage>,
}

impl Grant {
    /// A grant that `guard` keeps alive: the owner's pins, or a client's promise to tell the owner when it is dropped.
    pub fn new(
        file: Arc<IoFile>,
        object: Arc<ObjectMeta>,
        range: ByteRange,
        blocks: Vec<BlockGrant>,
        guard: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { file, object, range, blocks, guard }
    }

    /// The same right, block by block: where a read of several fails, one of them is to blame.
    pub fn split(&self) -> Vec<Self> {
        let one = |block: &BlockGrant| Self {
            file: self.file.clone(),
            object: self.object.clone(),
            range: self.range.intersect(self.object.block_range(block.index)),
            blocks: vec![block.clone()],
            guard: self.guard.clone(),
        };
        self.blocks.iter().map(one).collect()
    }

    /// What keeps the blocks in place.
    pub fn guard(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.guard
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({} bytes {}, {} blocks)", self.object.location, self.range, self.blocks.len())
    }
}
