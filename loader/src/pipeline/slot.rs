//! A batch while it is made: one row per sample, filled by decoders in any order.
//!
//! Columns whose row size is known before the first byte is read (images of a fixed size, numbers) are one slab that decoders
//! write into directly. The others collect values, and `assemble` packs them once all rows are there.

use std::sync::Arc;

use forebay_cache::Lease;
use forebay_cache::memory::{Region, Row, Slab};

use crate::batch::{Array, Batch, Column};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::field::Shapes;

/// Alignment of every array that a batch hands out: a cache line, and what SIMD loads ask for.
const ARRAY_ALIGN: usize = 64;

/// How the columns of every batch of a loader lie in memory.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) columns: Vec<ColumnLayout>,
}

/// One column.
#[derive(Debug)]
pub(crate) struct ColumnLayout {
    pub(crate) name: String,
    /// Type and shape of one row, where they are known before decoding.
    pub(crate) row: Option<(DType, Vec<usize>)>,
    pub(crate) shapes: Shapes,
}

impl ColumnLayout {
    fn row_bytes(&self) -> Option<usize> {
        self.row.as_ref().map(|(dtype, shape)| dtype.size() * shape.iter().product::<usize>())
    }
}

impl Layout {
    /// Bytes of the slabs of one batch of `rows` rows, in whole pages.
    pub(crate) fn slab_bytes(&self, rows: usize) -> usize {
        self.columns
            .iter()
            .filter_map(ColumnLayout::row_bytes)
            .map(|row| (row * rows).next_multiple_of(4096))
            .sum()
    }
}

/// One field of one sample, decoded.
#[derive(Debug)]
pub(crate) enum Cell {
    /// Written where it belongs.
    Row(Row),
    /// To be packed.
    Value(Value),
}

impl Cell {
    /// True where its bytes are still in the memory for reads.
    pub(crate) fn is_window(&self) -> bool {
        matches!(self, Self::Value(Value::Bytes(_) | Value::Array { bytes: Payload::Lease(_), .. }))
    }

    /// The same with its bytes copied out of the memory for reads.
    pub(crate) fn detached(self) -> Self {
        match self {
            Self::Value(Value::Bytes(bytes)) => Self::Value(Value::Bytes(Lease::from_vec(bytes.to_vec()))),
            Self::Value(Value::Array { dtype, shape, bytes: Payload::Lease(bytes) }) => {
                Self::Value(Value::Array { dtype, shape, bytes: Payload::Vec(bytes.to_vec()) })
            }
            other => other,
        }
    }
}

/// A decoded value whose place in the batch is not known yet.
#[derive(Debug)]
pub(crate) enum Value {
    Array { dtype: DType, shape: Vec<usize>, bytes: Payload },
    Text(String),
    Json(String),
    Bytes(Lease),
}

/// Bytes of a value: still where they were read, or made by a decoder.
#[derive(Debug)]
pub(crate) enum Payload {
    Lease(Lease),
    Vec(Vec<u8>),
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lease(lease) => lease,
            Self::Vec(bytes) => bytes,
        }
    }
}

/// Which sample a row holds, for errors and for `Batch::samples`.
#[derive(Clone, Debug)]
pub(crate) struct RowSample {
    pub(crate) shard: u32,
    pub(crate) index: u64,
    /// `shard.tar: key`, as errors name it.
    pub(crate) label: Arc<str>,
}

/// A batch that is being filled.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) epoch: u64,
    pub(crate) index: u64,
    pub(crate) valid: usize,
    layout: Arc<Layout>,
}

impl Slot {
    /// Takes memory for the fixed columns of `rows` rows, waiting in line for it. Returns the slot and each row's cells to
    /// write into (`None` where the value comes later).
    pub(crate) async fn allocate(
        layout: &Arc<Layout>,
        region: &Region,
        (epoch, index): (u64, u64),
        rows: usize,
        valid: usize,
    ) -> Result<(Self, Vec<Vec<Option<Row>>>)> {
        let mut cells: Vec<Vec<Option<Row>>> =
            (0..rows).map(|_| Vec::with_capacity(layout.columns.len())).collect();
        for column in &layout.columns {
            let Some(bytes) = column.row_bytes() else {
                cells.iter_mut().for_each(|row| row.push(None));
                continue;
            };
            let slab = region.allocate(bytes * rows).await?;
            for (row, cell) in cells.iter_mut().zip(Row::split(slab, bytes, rows)) {
                row.push(Some(cell));
            }
        }
        Ok((Self { epoch, index, valid, layout: layout.clone() }, cells))
    }

    /// Makes the batch from its rows, in order. Values are packed into memory of `region`, waited for in line.
    pub(crate) async fn assemble(self, rows: Vec<(RowSample, Vec<Cell>)>, region: &Region) -> Result<Batch> {
        let (samples, cells): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let mut by_row: Vec<_> = cells.into_iter().map(Vec::into_iter).collect();
        let mut columns = Vec::with_capacity(self.layout.columns.len());
        for layout in &self.layout.columns {
            let cells: Option<Vec<Cell>> = by_row.iter_mut().map(Iterator::next).collect();
            let cells = cells.ok_or_else(|| internal("a cell is missing"))?;
            let column = match &layout.row {
                Some((dtype, shape)) => dense(cells, *dtype, shape)?,
                None => pack(layout, cells, &samples, region).await?,
            };
            columns.push((layout.name.clone(), column));
        }
        Ok(Batch {
            epoch: self.epoch,
            index: self.index,
            valid: self.valid,
            rows: samples.len(),
            columns,
            samples: samples.iter().map(|sample| (sample.shard, sample.index)).collect(),
        })
    }
}

fn internal(message: &str) -> Error {
    Error::Panic { message: message.into() }
}

fn dense(cells: Vec<Cell>, dtype: DType, shape: &[usize]) -> Result<Column> {
    let rows: Option<Vec<Row>> =
        cells.into_iter().map(|cell| if let Cell::Row(row) = cell { Some(row) } else { None }).collect();
    let rows = rows.ok_or_else(|| internal("a value where a row was expected"))?;
    let shape = std::iter::once(rows.len()).chain(shape.iter().copied()).collect();
    let data = Row::join(rows).ok_or_else(|| internal("a row is still out"))?;
    Ok(Column::Dense(Array { dtype, shape, data }))
}

/// Packs the values of a column. All are of one kind, since one field made them.
async fn pack(
    layout: &ColumnLayout,
    cells: Vec<Cell>,
    samples: &[RowSample],
    region: &Region,
) -> Result<Column> {
    let (mut arrays, mut texts, mut jsons, mut blobs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for cell in cells {
        match cell {
            Cell::Value(Value::Array { dtype, shape, bytes }) => arrays.push((dtype, shape, bytes)),
            Cell::Value(Value::Text(text)) => texts.push(text),
            Cell::Value(Value::Json(text)) => jsons.push(text),
            Cell::Value(Value::Bytes(bytes)) => blobs.push(bytes),
            Cell::Row(_) => return Err(internal("a row where a value was expected")),
        }
    }
    if !arrays.is_empty() {
        return match layout.shapes {
            Shapes::Equal => stack(layout, arrays, samples, region).await,
            Shapes::Pad(value) => pad(layout, arrays, samples, value, region).await,
            Shapes::Ragged => ragged(arrays, region).await,
        };
    }
    if !texts.is_empty() {
        return Ok(Column::Text(texts));
    }
    if !jsons.is_empty() {
        return Ok(Column::Json(jsons));
    }
    let (slab, places) = packed(region, blobs.iter().map(|blob| &**blob)).await?;
    Ok(Column::Bytes(places.into_iter().map(|place| slab.slice(place)).collect()))
}

type Decoded = (DType, Vec<usize>, Payload);

/// Copies pieces one behind the other, each aligned.
async fn packed<'a>(
    region: &Region,
    pieces: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(Lease, Vec<std::ops::Range<usize>>)> {
    let total: usize = pieces.clone().map(|piece| piece.len().next_multiple_of(ARRAY_ALIGN)).sum();
    let mut slab = region.allocate(total).await?;
    let mut places = Vec::new();
    let mut at = 0;
    for piece in pieces {
        slab[at..at + piece.len()].copy_from_slice(piece);
        places.push(at..at + piece.len());
        at += piece.len().next_multiple_of(ARRAY_ALIGN);
    }
    Ok((slab.freeze(), places))
}

async fn ragged(arrays: Vec<Decoded>, region: &Region) -> Result<Column> {
    let (slab, places) = packed(region, arrays.iter().map(|(_, _, bytes)| &**bytes)).await?;
    let array = |((dtype, shape, _), place): (Decoded, _)| Array { dtype, shape, data: slab.slice(place) };
    Ok(Column::Ragged(arrays.into_iter().zip(places).map(array).collect()))
}

async fn stack(
    layout: &ColumnLayout,
    arrays: Vec<Decoded>,
    samples: &[RowSample],
    region: &Region,
) -> Result<Column> {
    let (dtype, shape, first) = &arrays[0];
    let (dtype, shape, row_bytes) = (*dtype, shape.clone(), first.len());
    for (row, array) in arrays.iter().enumerate() {
        if array.0 != dtype || array.1 != shape {
            return Err(differ(layout, (&arrays[0], &samples[0]), (array, &samples[row])));
        }
    }
    let mut slab = region.allocate(product(layout, &[row_bytes, arrays.len()])?).await?;
    for (place, (_, _, bytes)) in slab.chunks_exact_mut(row_bytes.max(1)).zip(&arrays) {
        place.copy_from_slice(bytes);
    }
    Ok(dense_of(slab, dtype, arrays.len(), &shape))
}

async fn pad(
    layout: &ColumnLayout,
    arrays: Vec<Decoded>,
    samples: &[RowSample],
    value: f64,
    region: &Region,
) -> Result<Column> {
    let (dtype, mut shape) = (arrays[0].0, arrays[0].1.clone());
    for (row, array) in arrays.iter().enumerate() {
        if array.0 != dtype || array.1.len() != shape.len() {
            return Err(differ(layout, (&arrays[0], &samples[0]), (array, &samples[row])));
        }
        shape.iter_mut().zip(&array.1).for_each(|(largest, size)| *largest = (*largest).max(*size));
    }
    let element = dtype.encode(value).ok_or_else(|| {
        Error::config(format!("field {:?}: pad={value} is no value of {}", layout.name, dtype.name()))
    })?;
    let row_bytes = product(layout, &[&[dtype.size()][..], &shape].concat())?;
    let mut slab = region.allocate(product(layout, &[row_bytes, arrays.len()])?).await?;
    for (place, (_, inner, bytes)) in slab.chunks_exact_mut(row_bytes.max(1)).zip(&arrays) {
        place.chunks_exact_mut(element.len()).for_each(|to| to.copy_from_slice(&element));
        copy_into_corner(place, &shape, bytes, inner, dtype.size());
    }
    Ok(dense_of(slab, dtype, arrays.len(), &shape))
}

/// Copies an array into the corner at index 0 of a larger one with as many dimensions.
fn copy_into_corner(to: &mut [u8], outer: &[usize], from: &[u8], inner: &[usize], element: usize) {
    let (Some((&outer_size, outer_rest)), Some((&inner_size, inner_rest))) =
        (outer.split_first(), inner.split_first())
    else {
        to.copy_from_slice(from);
        return;
    };
    if outer_rest == inner_rest {
        to[..from.len()].copy_from_slice(from);
        return;
    }
    let stride = |rest: &[usize]| element * rest.iter().product::<usize>();
    let (outer_stride, inner_stride) = (stride(outer_rest), stride(inner_rest));
    debug_assert!(inner_size <= outer_size);
    for index in 0..inner_size {
        copy_into_corner(
            &mut to[index * outer_stride..][..outer_stride],
            outer_rest,
            &from[index * inner_stride..][..inner_stride],
            inner_rest,
            element,
        );
    }
}

/// Bytes of an array with these factors; headers of files decide them, so that they may be anything.
fn product(layout: &ColumnLayout, factors: &[usize]) -> Result<usize> {
    factors.iter().try_fold(1usize, |all, &factor| all.checked_mul(factor)).ok_or_else(|| Error::Dataset {
        message: format!("field {:?}: an array of {factors:?} bytes is larger than any memory", layout.name),
    })
}

fn dense_of(slab: Slab, dtype: DType, rows: usize, shape: &[usize]) -> Column {
    let elements = shape.iter().fold(rows, |all, &size| all.saturating_mul(size));
    assert_eq!(slab.len(), elements.saturating_mul(dtype.size()), "a batch's memory is its shape");
    let shape = std::iter::once(rows).chain(shape.iter().copied()).collect();
    Column::Dense(Array { dtype, shape, data: slab.freeze() })
}

fn differ(layout: &ColumnLayout, first: (&Decoded, &RowSample), second: (&Decoded, &RowSample)) -> Error {
    let shape = |(dtype, shape, _): &Decoded| format!("{} {shape:?}", dtype.name());
    Error::Shapes {
        field: layout.name.clone(),
        first: first.1.label.to_string(),
        first_shape: shape(first.0),
        second: second.1.label.to_string(),
        second_shape: shape(second.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_cache::memory::{Arena, Unpinned};

    fn region() -> Region {
        Arena::new(1 << 20, Arc::new(Unpinned)).unwrap().region("batches", 1 << 20).unwrap()
    }

    async fn batch_of(shapes: Shapes, values: Vec<Value>) -> Result<Batch> {
        let layout = Arc::new(Layout { columns: vec![ColumnLayout { name: "x".into(), row: None, shapes }] });
        let (slot, _) = Slot::allocate(&layout, &region(), (0, 0), values.len(), values.len()).await?;
        let row = |(row, value)| {
            let sample = RowSample { shard: 0, index: row as u64, label: format!("a.tar: {row}").into() };
            (sample, vec![Cell::Value(value)])
        };
        slot.assemble(values.into_iter().enumerate().map(row).collect(), &region()).await
    }

    fn array(shape: &[usize], bytes: &[u8]) -> Value {
        Value::Array { dtype: DType::U8, shape: shape.to_vec(), bytes: Payload::Vec(bytes.to_vec()) }
    }

    #[tokio::test]
    async fn differing_shapes_are_an_error_that_names_both_samples() {
        let values = vec![array(&[2], &[1, 2]), array(&[1], &[3])];
        let error = batch_of(Shapes::Equal, values).await.unwrap_err().to_string();
        assert!(
            error.contains("a.tar: 0") && error.contains("a.tar: 1") && error.contains("ragged"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn padding_fills_behind_every_dimension() {
        let values = vec![array(&[2, 1], &[1, 2]), array(&[1, 3], &[3, 4, 5])];
        let batch = batch_of(Shapes::Pad(9.0), values).await.unwrap();
        let Column::Dense(array) = &batch.columns[0].1 else { panic!("not dense") };
        assert_eq!(array.shape, [2, 2, 3]);
        assert_eq!(&*array.data, [1, 9, 9, 2, 9, 9, 3, 4, 5, 9, 9, 9]);
    }

    #[tokio::test]
    async fn ragged_rows_keep_their_shapes() {
        let batch = batch_of(Shapes::Ragged, vec![array(&[2], &[1, 2]), array(&[0], &[])]).await.unwrap();
        let Column::Ragged(arrays) = &batch.columns[0].1 else { panic!("not ragged") };
        assert_eq!((arrays[0].shape[0], &*arrays[0].data), (2, &[1u8, 2][..]));
        assert_eq!((arrays[1].shape[0], arrays[1].data.len()), (0, 0));
    }
}
