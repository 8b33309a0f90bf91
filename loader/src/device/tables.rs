//! Tables that tell kernels where the rows of a column are, wherever in the device's memory each of them lies.
#![allow(unsafe_code)]

use std::sync::Arc;

use forebay_cache::Lease;
use forebay_gpu::kernels::{CropArgs, CropResizeArgs, Cut, Filter, GatherArgs, Output, Sample, Turn};
use forebay_gpu::{Address, Device, RawStream};

use crate::error::{Error, Result};

/// Where a kernel finds a column's rows, and where it writes them.
pub(super) enum Table {
    /// Parts of pictures, resized where there is a filter.
    Pictures { out: Output, rows: Vec<Sample>, filter: Option<Filter> },
    /// Rows as they are, of so many bytes.
    Rows { rows: Vec<Address>, bytes: u64, to: Address },
}

impl Table {
    /// Of parts of pictures, with room for weights where one of them is resized.
    pub(super) fn pictures(out: Output, rows: Vec<Sample>, filter: Option<Filter>) -> Result<Self> {
        if rows.iter().all(Sample::is_plain) {
            return Ok(Self::Pictures { out, rows, filter: None });
        }
        let filter =
            filter.ok_or_else(|| Error::Panic { message: "a picture is resized without a filter".into() })?;
        let rows = rows.into_iter().map(|row| row.resized(filter, 0)).collect();
        Ok(Self::Pictures { out, rows, filter: Some(filter) })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Pictures { rows, .. } => rows.len() * Sample::BYTES,
            Self::Rows { rows, .. } => rows.len() * size_of::<u64>(),
        }
    }

    /// Bytes of the weights that its kernel needs.
    fn weight_bytes(&self) -> u64 {
        match self {
            Self::Pictures { rows, filter: Some(_), .. } => rows.iter().map(Sample::weight_bytes).sum(),
            Self::Pictures { .. } | Self::Rows { .. } => 0,
        }
    }

    /// As it lies in memory; weights begin at `weights`, which moves on.
    fn write(&self, to: &mut Vec<u8>, weights: &mut Address) {
        match self {
            Self::Pictures { rows, filter, .. } => {
                for row in rows {
                    let row = filter.map_or(*row, |filter| row.resized(filter, weights.0));
                    *weights = weights.offset(row.weight_bytes());
                    to.extend(row.to_bytes());
                }
            }
            Self::Rows { rows, .. } => rows.iter().for_each(|row| to.extend(row.0.to_ne_bytes())),
        }
    }
}

/// Bytes of the device's memory for tables and the weights that their kernels need.
pub(super) fn bytes<'a>(tables: impl Iterator<Item = &'a Table>) -> u64 {
    tables.map(|table| table.bytes() as u64 + table.weight_bytes()).sum()
}

/// Tables one after the other as they are to lie at `first`, and their bytes. Weights follow.
pub(super) fn written<'a>(tables: impl Iterator<Item = &'a Table> + Clone, first: Address) -> (Lease, u64) {
    let length: usize = tables.clone().map(Table::bytes).sum();
    let mut weights = first.offset(length as u64);
    let mut bytes = Vec::with_capacity(length);
    tables.for_each(|table| table.write(&mut bytes, &mut weights));
    (Lease::from_vec(bytes), length as u64)
}

/// Starts the kernels of tables that lie at `first`.
///
/// # Safety
/// The tables lie there as [`written`], with [`bytes`] of memory, before the stream does this. Rows are what they say, and ours to read; where
/// they go has room for all of them and is ours to write; until the stream has done it.
pub(super) unsafe fn launch<'a>(
    tables: impl Iterator<Item = &'a Table>,
    device: &Arc<dyn Device>,
    first: Address,
    stream: RawStream,
) -> Result<()> {
    let mut table = first;
    for next in tables {
        let samples = table.0;
        table = table.offset(next.bytes() as u64);
        // SAFETY: as the caller promises.
        unsafe {
            match next {
                Table::Rows { rows, bytes, to } => {
                    let rows = rows.len() as u64;
                    let gather = GatherArgs { samples, out: to.0, rows, row_bytes: *bytes };
                    forebay_gpu::launch(device, &gather, stream)?;
                }
                Table::Pictures { out, rows, filter: None } => {
                    let crop = CropArgs { out: *out, samples, images: rows.len() as u64 };
                    forebay_gpu::launch(device, &crop, stream)?;
                }
                Table::Pictures { out, rows, filter: Some(filter) } => {
                    let images = rows.len() as u64;
                    let resize = CropResizeArgs { out: *out, samples, images, filter: *filter };
                    forebay_gpu::launch(device, &resize.weights(), stream)?;
                    forebay_gpu::launch(device, &resize, stream)?;
                }
            }
        }
    }
    Ok(())
}

/// All of a picture of this size, as it is.
pub(super) fn whole(height: u32, width: u32) -> Cut {
    Cut {
        crop: [(0, width), (0, height)],
        scaled: [width, height],
        window: [(0, width), (0, height)],
        turn: Turn::default(),
        columns_first: false,
    }
}
