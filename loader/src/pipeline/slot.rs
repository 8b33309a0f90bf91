//! A batch while it is made: one row per sample, filled by decoders in any order.
//!
//! Decoders write every value into memory that it keeps: a row of a slab, or memory of its own. A slab's rows are joined when all of
//! them are there; only padded columns are copied once more.

use std::sync::Arc;

use forebay_cache::Lease;
use forebay_cache::memory::{Region, Row, Slab};

use super::values::Reservation;
use crate::batch::{Array, Batch, Column, Text};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::field::{FieldKind, Shapes};
use crate::session::PAGE;

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
    pub(crate) row: Option<Form>,
    pub(crate) kind: Kind,
    pub(crate) shapes: Shapes,
    /// Whether pixels are shown with their channels first, and stay where they are.
    pub(crate) channels_last: bool,
}

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Array,
    Text,
    Json,
    Bytes,
}

impl Kind {
    pub(crate) fn of(field: &FieldKind) -> Self {
        match field {
            FieldKind::Text => Self::Text,
            FieldKind::Json => Self::Json,
            FieldKind::Bytes => Self::Bytes,
            _ => Self::Array,
        }
    }

    pub(crate) fn is_array(self) -> bool {
        self == Self::Array
    }
}

/// Type and shape of a value, as it lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl Form {
    pub(crate) fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Bytes of such a value; more than any memory where they can't be counted.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().fold(self.dtype.size(), |all, &length| all.saturating_mul(length))
    }

    /// Grows every dimension to the other's, where they have as many.
    pub(crate) fn cover(&mut self, other: &Self) {
        self.shape.iter_mut().zip(&other.shape).for_each(|(most, length)| *most = (*most).max(*length));
    }
}

impl ColumnLayout {
    /// The array of values that lie in C order.
    fn array(&self, dtype: DType, shape: Vec<usize>, data: Lease) -> Array {
        let array = Array::new(dtype, shape, data);
        if self.channels_last { array.channels_first() } else { array }
    }

    fn row_bytes(&self) -> Option<usize> {
        self.row.as_ref().map(Form::bytes)
    }
}

impl Layout {
    /// True where a column's values have sizes of their own.
    pub(crate) fn is_variable(&self) -> bool {
        self.columns.iter().any(|column| column.row.is_none())
    }

    /// Bytes of the slabs of one batch of `rows` rows, in whole pages.
    pub(crate) fn slab_bytes(&self, rows: usize) -> usize {
        self.columns
            .iter()
            .filter_map(ColumnLayout::row_bytes)
            .map(|row| row.saturating_mul(rows).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX))
            .fold(0, usize::saturating_add)
    }
}

/// One field of one sample.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Decoded; none where its batch can't be made.
    pub(crate) row: Option<Row>,
    /// Where the layout doesn't know it.
    pub(crate) form: Option<Form>,
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
    /// Takes memory for the fixed columns of `rows` rows, waiting in line for it; none are where a device makes them all. Returns the slot
    /// and each row's cells to write into (`None` where the value comes later).
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
            if rows == 0 {
                continue;
            }
            let slab = region.allocate(bytes * rows).await?;
            for (row, cell) in cells.iter_mut().zip(Row::split(slab, bytes, rows)) {
                row.push(Some(cell));
            }
        }
        Ok((Self { epoch, index, valid, layout: layout.clone() }, cells))
    }

    /// Makes the batch from its rows, in order.
    pub(crate) fn assemble(
        self,
        rows: Vec<(RowSample, Vec<Cell>)>,
        reservation: Option<&Reservation>,
    ) -> Result<Batch> {
        let (samples, cells): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let mut by_row: Vec<_> = cells.into_iter().map(Vec::into_iter).collect();
        let mut by_column = Vec::with_capacity(self.layout.columns.len());
        for layout in &self.layout.columns {
            let cells: Option<Vec<Cell>> = by_row.iter_mut().map(Iterator::next).collect();
            let cells = cells.ok_or_else(|| internal("a cell is missing"))?;
            check_forms(layout, &cells, &samples)?;
            by_column.push((layout, cells));
        }
        if let Some(reservation) = reservation {
            reservation.check()?;
        }
        let mut columns = Vec::with_capacity(by_column.len());
        for (at, (layout, cells)) in by_column.into_iter().enumerate() {
            let slab = reservation.and_then(|reservation| reservation.packed(at));
            columns.push((layout.name.clone(), column(layout, cells, slab)?));
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

/// An error that names the first sample and the first one that doesn't go with it.
fn check_forms(layout: &ColumnLayout, cells: &[Cell], samples: &[RowSample]) -> Result<()> {
    if !layout.kind.is_array() {
        return Ok(());
    }
    let goes = |one: &Form, other: &Form| match layout.shapes {
        Shapes::Equal => one == other,
        Shapes::Pad(_) => one.dtype == other.dtype && one.shape.len() == other.shape.len(),
        Shapes::Ragged => true,
    };
    let mut forms = cells.iter().map(|cell| cell.form.as_ref()).zip(samples);
    let Some((Some(first), first_sample)) = forms.next() else { return Ok(()) };
    let shown = |form: &Form| format!("{} {:?}", form.dtype.name(), form.shape);
    for (form, sample) in forms {
        let Some(form) = form.filter(|form| !goes(first, form)) else { continue };
        return Err(Error::Shapes {
            field: layout.name.clone(),
            first: first_sample.label.to_string(),
            first_shape: shown(first),
            second: sample.label.to_string(),
            second_shape: shown(form),
        });
    }
    Ok(())
}

/// A column of its cells; `slab` is for those that are copied together.
fn column(layout: &ColumnLayout, cells: Vec<Cell>, slab: Option<Slab>) -> Result<Column> {
    let mut rows = Vec::with_capacity(cells.len());
    let mut forms = Vec::with_capacity(cells.len());
    for cell in cells {
        rows.push(cell.row.ok_or_else(|| internal("a row was not decoded"))?);
        forms.extend(cell.form);
    }
    let form = layout.row.as_ref().or(forms.first()).cloned();
    let own = |rows: Vec<Row>| rows.into_iter().map(|row| joined(vec![row])).collect::<Result<Vec<Lease>>>();
    Ok(match (layout.kind, slab) {
        (Kind::Text, _) => Column::Text(own(rows)?.into_iter().map(Text::checked).collect()),
        (Kind::Json, _) => Column::Json(own(rows)?.into_iter().map(Text::checked).collect()),
        (Kind::Bytes, _) => Column::Bytes(own(rows)?),
        (Kind::Array, Some(slab)) => packed(layout, &forms, &rows, slab)?,
        (Kind::Array, None) if layout.shapes == Shapes::Ragged => {
            let array = |(Form { dtype, shape }, data)| layout.array(dtype, shape, data);
            Column::Ragged(forms.into_iter().zip(own(rows)?).map(array).collect())
        }
        (Kind::Array, None) if rows.is_empty() => {
            let Form { dtype, shape } = form.ok_or_else(|| internal("a column without rows has no size"))?;
            let shape = std::iter::once(0).chain(shape).collect();
            Column::Dense(layout.array(dtype, shape, Lease::from_vec(Vec::new())))
        }
        (Kind::Array, None) => {
            let Form { dtype, shape } = form.ok_or_else(|| internal("a batch without rows"))?;
            let shape = std::iter::once(rows.len()).chain(shape).collect();
            Column::Dense(layout.array(dtype, shape, joined(rows)?))
        }
    })
}

fn joined(rows: Vec<Row>) -> Result<Lease> {
    Row::join(rows).ok_or_else(|| internal("a row is still out"))
}

/// Copies values into one array as large as the largest of each dimension.
fn packed(layout: &ColumnLayout, forms: &[Form], rows: &[Row], mut slab: Slab) -> Result<Column> {
    let mut most = forms.first().cloned().ok_or_else(|| internal("a batch without rows"))?;
    forms.iter().for_each(|form| most.cover(form));
    if let Shapes::Pad(value) = layout.shapes {
        let element = most.dtype.encode(value).ok_or_else(|| {
            let dtype = most.dtype.name();
            Error::config(format!("field {:?}: pad={value} is no value of {dtype}", layout.name))
        })?;
        slab.chunks_exact_mut(element.len()).for_each(|to| to.copy_from_slice(&element));
    }
    for (place, (form, row)) in slab.chunks_exact_mut(most.bytes().max(1)).zip(forms.iter().zip(rows)) {
        copy_into_corner(place, &most.shape, row, &form.shape, most.dtype.size());
    }
    let shape: Vec<usize> = std::iter::once(rows.len()).chain(most.shape).collect();
    if slab.len() != Form::new(most.dtype, shape.clone()).bytes() {
        return Err(internal("a batch's memory is not its shape"));
    }
    Ok(Column::Dense(layout.array(most.dtype, shape, slab.freeze())))
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

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_cache::memory::Arena;

    /// A batch of one column, as decoders make it.
    fn batch_of(shapes: Shapes, values: &[(&[usize], &[u8])]) -> Result<Batch> {
        let arena = Arena::new(1 << 20).unwrap();
        let region = arena.region("test", 1 << 20).unwrap();
        let layout =
            ColumnLayout { name: "x".into(), row: None, kind: Kind::Array, shapes, channels_last: false };
        let mut most = Form::new(DType::U8, values[0].0);
        let rows = values.iter().enumerate().map(|(row, (shape, bytes))| {
            let mut slab = region.try_allocate(bytes.len()).unwrap();
            slab.copy_from_slice(bytes);
            let form = Form::new(DType::U8, *shape);
            most.cover(&form);
            let sample = RowSample { shard: 0, index: row as u64, label: format!("a.tar: {row}").into() };
            (sample, Cell { row: Row::split(slab, bytes.len(), 1).pop(), form: Some(form) })
        });
        let (samples, cells): (Vec<_>, Vec<_>) = rows.unzip();
        check_forms(&layout, &cells, &samples)?;
        let slab = region.try_allocate(most.bytes() * values.len()).unwrap();
        let slab = (shapes != Shapes::Ragged).then_some(slab);
        let columns = vec![("x".into(), column(&layout, cells, slab)?)];
        Ok(Batch { epoch: 0, index: 0, valid: 0, rows: values.len(), columns, samples: vec![] })
    }

    #[test]
    fn differing_shapes_are_an_error_that_names_both_samples() {
        let error = batch_of(Shapes::Equal, &[(&[2], &[1, 2]), (&[1], &[3])]).unwrap_err().to_string();
        assert!(
            error.contains("a.tar: 0") && error.contains("a.tar: 1") && error.contains("ragged"),
            "{error}"
        );
    }

    #[test]
    fn padding_fills_behind_every_dimension() {
        let values: [(&[usize], &[u8]); 2] = [(&[2, 1], &[1, 2]), (&[1, 3], &[3, 4, 5])];
        let batch = batch_of(Shapes::Pad(9.0), &values).unwrap();
        let Column::Dense(array) = &batch.columns[0].1 else { panic!("not dense") };
        assert_eq!(array.shape, [2, 2, 3]);
        assert_eq!(&*array.data, [1, 9, 9, 2, 9, 9, 3, 4, 5, 9, 9, 9]);
    }

    #[test]
    fn pixels_in_channels_last_stay_in_memory_as_they_are() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut slab = arena.region("test", 1 << 20).unwrap().try_allocate(2 * 2 * 3).unwrap();
        slab.iter_mut().zip(0..).for_each(|(byte, number)| *byte = number);
        let layout = ColumnLayout {
            name: "x".into(),
            row: None,
            kind: Kind::Array,
            shapes: Shapes::Equal,
            channels_last: true,
        };
        let array = layout.array(DType::U8, vec![2, 1, 2, 3], slab.freeze());
        assert_eq!(
            (array.shape.as_slice(), array.strides.as_slice()),
            (&[2, 3, 1, 2][..], &[6, 1, 6, 3][..])
        );
        assert_eq!(&*array.data, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert!(!array.is_c_contiguous() && !array.is_fortran_contiguous());
    }

    #[test]
    fn ragged_rows_keep_their_shapes() {
        let batch = batch_of(Shapes::Ragged, &[(&[2], &[1, 2]), (&[0], &[])]).unwrap();
        let Column::Ragged(arrays) = &batch.columns[0].1 else { panic!("not ragged") };
        assert_eq!((arrays[0].shape[0], &*arrays[0].data), (2, &[1u8, 2][..]));
        assert_eq!((arrays[1].shape[0], arrays[1].data.len()), (0, 0));
    }
}
