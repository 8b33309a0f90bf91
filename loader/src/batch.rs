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

/// An array in host memory without gaps: C-contiguous, but for images in channels_last.
///
/// The memory is exclusively the consumer's: nothing writes to it before the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Array {
    /// Type of the elements, native byte order.
    pub dtype: DType,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    pub strides: Vec<usize>,
    /// `dtype.size() * shape.product()` bytes, aligned to 64.
    pub data: Lease,
}

/// An array in the memory of a device without gaps, laid out as [`Array`] is; exclusively the consumer's until its last clone and its last export are dropped.
#[derive(Clone, Debug)]
pub struct DeviceArray {
    /// Type of the elements, native byte order.
    pub dtype: DType,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    pub strides: Vec<usize>,
    /// Where it begins in the memory, in bytes.
    pub offset: u64,
    /// `dtype.size() * shape.product()` bytes and what shares memory with them, aligned to 512.
    pub memory: Arc<Resident>,
}

impl DeviceArray {
    /// A C-contiguous array of a part of its bytes, from `offset` on, over the same memory; none where they reach behind the end.
    #[must_use]
    pub fn part(&self, offset: u64, dtype: DType, shape: Vec<usize>) -> Option<Self> {
        let empty = shape.contains(&0);
        let elements = shape.iter().try_fold(1u64, |all, &size| all.checked_mul(size as u64));
        let elements = if empty { 0 } else { elements? };
        let end = elements.checked_mul(dtype.size() as u64)?.checked_add(offset)?;
        if end > self.bytes() {
            return None;
        }
        let Array { shape, strides, .. } = Array::new(dtype, shape, Lease::from_vec(Vec::new()));
        Some(Self { dtype, shape, strides, offset: self.offset + offset, memory: self.memory.clone() })
    }

    /// Its first byte, as the device counts.
    pub fn address(&self) -> u64 {
        self.memory.address() + self.offset
    }
}

impl Array {
    /// A C-contiguous one.
    pub(crate) fn new(dtype: DType, shape: Vec<usize>, data: Lease) -> Self {
        let mut strides = vec![1_usize; shape.len()];
        for at in (1..shape.len()).rev() {
            // Without elements, sizes may be anything, and strides mean nothing.
            strides[at - 1] = strides[at].saturating_mul(shape[at].max(1));
        }
        Self { dtype, shape, strides, data }
    }

    /// Bytes, in one dimension.
    pub fn of_bytes(data: Lease) -> Self {
        Self::new(DType::U8, vec![data.len()], data)
    }

    /// The last dimension shown before the two in front of it: [.., height, width, channels] as [.., channels, height, width].
    pub(crate) fn channels_first(mut self) -> Self {
        for sizes in [&mut self.shape, &mut self.strides] {
            if let [.., height, width, channels] = &mut sizes[..] {
                (*height, *width, *channels) = (*channels, *height, *width);
            }
        }
        self
    }

    /// Bytes from one index of a dimension to the next.
    pub fn byte_strides(&self) -> impl ExactSizeIterator<Item = usize> {
        self.strides.iter().map(|stride| stride * self.dtype.size())
    }

    /// Whether its elements follow each other in memory with the last index running fastest.
    pub fn is_c_contiguous(&self) -> bool {
        in_order(self.shape.iter().zip(&self.strides).rev())
    }

    /// Whether they do with the first index running fastest.
    pub fn is_fortran_contiguous(&self) -> bool {
        in_order(self.shape.iter().zip(&self.strides))
    }
}

/// Whether dimensions, from the fastest on, leave no gaps. What has one index has any stride; what has none, any order.
fn in_order<'a>(dimensions: impl Iterator<Item = (&'a usize, &'a usize)> + Clone) -> bool {
    let mut step = 1;
    let mut follows = |(&size, &stride): (&usize, &usize)| {
        let right = size == 1 || stride == step;
        step *= size;
        right
    };
    dimensions.clone().any(|(&size, _)| size == 0) || dimensions.clone().all(&mut follows)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize]) -> Array {
        Array::new(DType::F32, shape.to_vec(), Lease::from_vec(Vec::new()))
    }

    #[test]
    fn orders_are_told_apart_by_strides() {
        let orders = |array: Array| (array.is_c_contiguous(), array.is_fortran_contiguous());
        assert_eq!(orders(array(&[2, 3, 4])), (true, false));
        // A vector lies in both orders, and so does what is empty.
        for shape in [&[][..], &[5], &[1, 5, 1], &[2, 0, 3]] {
            assert_eq!(orders(array(shape)), (true, true), "{shape:?}");
        }
        assert_eq!(orders(array(&[2, 3, 4, 3]).channels_first()), (false, false));
        assert_eq!(orders(array(&[3, 4, 3]).channels_first()), (false, false));
        // One pixel an image: no order shows.
        assert_eq!(orders(array(&[2, 1, 1, 3]).channels_first()), (true, false));
        assert!(array(&[2, 3, 4]).byte_strides().eq([48, 16, 4]));
    }
}
