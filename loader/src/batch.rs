//! What the consumer gets: named columns of one batch, in memory that is its own until it lets go.

use std::sync::Arc;

use forebay_cache::Lease;

use crate::device::Resident;
use crate::dtype::DType;

/// One batch of one rank.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The epoch it belongs to.
    pub epoch: u64,
    /// Its number in the epoch, from 0, the same on every rank.
    pub index: u64,
    /// Rows that are real; rows behind them are the padding of an epoch's last batch.
    pub valid: usize,
    /// Rows.
    pub rows: usize,
    /// The fields, in the order in which they were asked for.
    pub columns: Vec<(String, Column)>,
    /// Each row's sample: (index of the shard, index in the shard). A replaced sample shows its replacement.
    pub samples: Vec<(u32, u64)>,
}

/// One field of a batch.
#[derive(Clone, Debug)]
pub enum Column {
    /// One array with the rows as first dimension.
    Dense(Array),
    /// As `Dense`, in the memory of a device.
    Device(DeviceArray),
    /// One array per row (`ragged=True`).
    Ragged(Vec<Array>),
    /// One str per row.
    Text(Vec<Text>),
    /// One JSON document per row, as text that was checked.
    Json(Vec<Text>),
    /// One bytes per row.
    Bytes(Vec<Lease>),
}

/// A C-contiguous array in host memory.
///
/// The memory is exclusively the consumer's: nothing writes to it before the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Array {
    /// Type of the elements, native byte order.
    pub dtype: DType,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `dtype.size() * shape.product()` bytes, aligned to 64.
    pub data: Lease,
}

/// A C-contiguous array in the memory of a device, exclusively the consumer's until its last clone and its last export are dropped.
#[derive(Clone, Debug)]
pub struct DeviceArray {
    /// Type of the elements, native byte order.
    pub dtype: DType,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `dtype.size() * shape.product()` bytes, aligned to 512.
    pub memory: Arc<Resident>,
}

/// UTF-8 in memory that counts against `host_memory_limit` until it is dropped.
#[derive(Clone, Debug)]
pub struct Text(Lease);

impl Text {
    /// Text that its decoder has checked.
    pub(crate) fn checked(bytes: Lease) -> Self {
        Self(bytes)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Checked again, which costs less than reading it from memory: nothing unsafe is needed for it.
        std::str::from_utf8(&self.0)
            .unwrap_or_else(|_| unreachable!("a decoder let through what is not UTF-8"))
    }
}
