//! A sample's members → its cells, by the fields that the user asked for.

use std::cell::RefCell;
use std::sync::Arc;

use forebay_cache::memory::Row;
use forebay_cache::{Lease, ObjectMeta};

use super::slot::{ColumnLayout, Layout, Payload, Value};
use crate::catalog::Found;
use crate::dataset::{MemberEntry, SampleEntry};
use crate::decode::{self, DecodeError, Decoder, Draws, Geometry, ImageOut, Limits, npy, scalar};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::field::{Field, FieldKind};
use crate::plan::EpochRng;

thread_local! {
    /// Each worker's decoder: its buffers stay warm from sample to sample.
    static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) };
}

/// Decodes samples of one loader, on any number of threads.
#[derive(Debug)]
pub(crate) struct SampleDecoder {
    fields: Vec<Field>,
    limits: Limits,
    /// Images before the masks that take their geometry.
    turns: Vec<usize>,
}

/// Shared by every row of a loader.
pub(crate) type SharedDecoder = Arc<SampleDecoder>;

impl SampleDecoder {
    pub(crate) fn new(fields: Vec<Field>, limits: Limits) -> Self {
        let is_mask = |field: &Field| matches!(field.kind, FieldKind::Mask { .. });
        let (masks, others): (Vec<_>, Vec<_>) = (0..fields.len()).partition(|&field| is_mask(&fields[field]));
        Self { fields, limits, turns: [others, masks].concat() }
    }

    /// How batches of these fields lie in memory.
    pub(crate) fn layout(&self) -> Layout {
        let column = |field: &Field| ColumnLayout {
            name: field.name.clone(),
            row: self.fixed_row(field),
            shapes: field.shapes,
        };
        Layout { columns: self.fields.iter().map(column).collect() }
    }

    /// Type and shape of a field's row, where they don't depend on the sample.
    fn fixed_row(&self, field: &Field) -> Option<(DType, Vec<usize>)> {
        if field.shapes == crate::field::Shapes::Ragged {
            return None;
        }
        match &field.kind {
            FieldKind::Int => Some((DType::I64, vec![])),
            FieldKind::Float => Some((DType::F64, vec![])),
            FieldKind::Image { transforms, .. } => {
                let (height, width) = decode::fixed_output(transforms)?;
                Some((DType::U8, vec![height as usize, width as usize, 3]))
            }
            FieldKind::Mask { like } => {
                let image = self.fields.iter().find(|field| field.name == *like)?;
                let FieldKind::Image { transforms, .. } = &image.kind else { return None };
                let (height, width) = decode::fixed_output(transforms)?;
                Some((DType::U8, vec![height as usize, width as usize]))
            }
            _ => None,
        }
    }

    /// True where a field's values may be windows into the memory that they were read into.
    pub(crate) fn hands_on(&self) -> bool {
        self.fields.iter().any(|field| matches!(field.kind, FieldKind::Bytes | FieldKind::Numpy))
    }

    /// The member of every field, in the fields' order.
    pub(crate) fn members<'a>(
        &self,
        object: &ObjectMeta,
        entry: &'a SampleEntry,
    ) -> Result<Vec<&'a MemberEntry>> {
        let member = |field: &Field| {
            entry.member(&field.suffixes).ok_or_else(|| Error::MissingField {
                location: object.location.clone(),
                key: entry.key().into_owned(),
                offset: entry.header_offset(),
                field: field.name.clone(),
                wanted: field.suffixes.clone(),
                found: entry.members.iter().map(|member| member.suffix.as_str().to_owned()).collect(),
            })
        };
        self.fields.iter().map(member).collect()
    }

    /// Decodes every field of a sample: into its cell where there is one, to a value where not.
    pub(crate) fn decode(
        &self,
        sample: &Found,
        members: &[Lease],
        cells: &mut [Option<Row>],
        draws: EpochRng,
        number: u64,
    ) -> Result<Vec<Option<Value>>> {
        DECODER.with_borrow_mut(|slot| {
            let decoder = slot.get_or_insert_with(|| Decoder::new(self.limits));
            let draws = |operation: u32, draw: u32| {
                let mut random = draws.sample(number, operation);
                (0..draw).fold(random.unit(), |_, _| random.unit())
            };
            let mut values: Vec<Option<Value>> = self.fields.iter().map(|_| None).collect();
            let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
            for &field in &self.turns {
                let (bytes, cell) = (&members[field], cells[field].as_deref_mut());
                let kind = &self.fields[field].kind;
                let made = self.field(decoder, kind, bytes, cell, &draws, &mut geometries, field);
                values[field] = made.map_err(|error| self.at(sample, field, &error))?;
            }
            Ok(values)
        })
    }

    #[allow(clippy::too_many_arguments)] // One call site; a struct of references would say less.
    fn field(
        &self,
        decoder: &mut Decoder,
        kind: &FieldKind,
        bytes: &Lease,
        cell: Option<&mut [u8]>,
        draws: &dyn Draws,
        geometries: &mut [Option<Geometry>],
        field: usize,
    ) -> decode::Result<Option<Value>> {
        let pixels = |done: decode::Decoded, channels: &[usize]| {
            let size = done.size();
            let shape = [&[size.height as usize, size.width as usize], channels].concat();
            done.pixels.map(|pixels| Value::Array { dtype: DType::U8, shape, bytes: Payload::Vec(pixels) })
        };
        let number = |bytes: [u8; 8], cell: Option<&mut [u8]>, dtype| match cell {
            Some(cell) => {
                cell.copy_from_slice(&bytes);
                None
            }
            None => Some(Value::Array { dtype, shape: vec![], bytes: Payload::Vec(bytes.to_vec()) }),
        };
        Ok(match kind {
            FieldKind::Image { transforms, decode } => {
                let done = decoder.image(bytes, transforms, *decode, draws, out(cell))?;
                geometries[field] = Some(done.geometry.clone());
                pixels(done, &[3])
            }
            FieldKind::Mask { like } => {
                let image = self.fields.iter().position(|field| field.name == *like);
                let geometry = image.and_then(|image| geometries[image].as_ref());
                let geometry =
                    geometry.ok_or_else(|| DecodeError::new(format!("like={like:?} is no image")))?;
                pixels(decoder.mask(bytes, geometry, out(cell))?, &[])
            }
            FieldKind::Int => number(scalar::int(bytes)?.to_ne_bytes(), cell, DType::I64),
            FieldKind::Float => number(scalar::float(bytes)?.to_ne_bytes(), cell, DType::F64),
            FieldKind::Text => Some(Value::Text(scalar::text(bytes)?.to_owned())),
            FieldKind::Json => Some(Value::Json(scalar::json(bytes)?.to_owned())),
            FieldKind::Bytes => Some(Value::Bytes(bytes.clone())),
            FieldKind::Numpy => Some(array(bytes)?),
        })
    }

    /// The error of a field, with the place of its member.
    fn at(&self, sample: &Found, field: usize, error: &DecodeError) -> Error {
        let member = sample.entry.member(&self.fields[field].suffixes);
        Error::Sample {
            location: sample.object.location.clone(),
            member: member
                .map_or_else(|| sample.entry.key().into_owned(), |member| sample.entry.name(member)),
            offset: member.map_or_else(|| sample.entry.header_offset(), |member| member.data_offset),
            what: error.to_string(),
        }
    }
}

fn out(cell: Option<&mut [u8]>) -> ImageOut<'_> {
    cell.map_or(ImageOut::New, ImageOut::Slot)
}

/// A .npy file's array: where it was read, if its elements lie there as they are handed out.
fn array(bytes: &Lease) -> decode::Result<Value> {
    let header = npy::parse(bytes)?;
    let data = header.data_offset..header.data_offset + header.data_bytes;
    let in_place = !header.swapped && (!header.fortran_order || header.shape.len() < 2);
    let payload = if in_place {
        Payload::Lease(bytes.slice(data))
    } else {
        let mut elements = vec![0; header.data_bytes];
        header.read(bytes, &mut elements)?;
        Payload::Vec(elements)
    };
    Ok(Value::Array { dtype: header.dtype, shape: header.shape, bytes: payload })
}
