//! A batch from rows anywhere in device memory.

use crate::{Kernel, Launch};

/// Arguments of `forebay_gather`: copies rows of equal size from anywhere into one array.
///
/// As many bytes at a time as source and destination are aligned to (16, 4, 1); any alignment is allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GatherArgs {
    /// Address of `rows` addresses (8 bytes each, aligned), one per row.
    pub samples: u64,
    /// Where the rows go, one after the other.
    pub out: u64,
    /// How many.
    pub rows: u64,
    /// Of each.
    pub row_bytes: u64,
}

impl Kernel for GatherArgs {
    const NAME: &'static str = "forebay_gather";

    fn launch(&self) -> Launch {
        Launch::over([self.row_bytes.div_ceil(16), self.rows, 1])
    }
}
