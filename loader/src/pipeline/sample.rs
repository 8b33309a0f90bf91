//! A sample's members → its cells, by the fields that the user asked for.

mod kept;

use std::cell::RefCell;
use std::sync::Arc;

use forebay_cache::memory::Row;
use forebay_cache::{Lease, ObjectMeta};
use forebay_gpu::jpeg::{Frame, Refusal, header};

pub(crate) use kept::Kept;

use super::slot::{ColumnLayout, Form, Kind, Layout};
use crate::catalog::Found;
use crate::dataset::{MemberEntry, SampleEntry};
use crate::decode::{
    self, Converter, DecodeError, Decoder, Draws, Geometry, ImageOut, Limits, Steps, npy, scalar,
};
use crate::decoded::{Keeping, Record};
use crate::device::{Draft, only_stage};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::field::{Convert, Field, FieldKind, PixelLayout};
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
    /// Of images whose pixels are not handed out as they are decoded.
    converters: Vec<Option<Converter>>,
    /// Images before the masks that take their geometry.
    turns: Vec<usize>,
    /// Fields whose form depends on the sample, and images that such a mask takes its geometry from.
    measured: Vec<bool>,
    /// Fields whose form the layout knows.
    fixed: Vec<bool>,
    /// Whether measuring opens pictures.
    measures_pictures: bool,
    /// By field, of images where decoded samples are kept: what is done before they are kept, and what after.
    steps: Vec<Option<Steps>>,
    keeping: bool,
}

/// What a sample is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// Members as they were read.
    Members(&'a [Lease]),
    /// Values that were kept.
    Kept(&'a Record),
}

/// Shared by every row of a loader.
pub(crate) type SharedDecoder = Arc<SampleDecoder>;

impl SampleDecoder {
    /// With `keeping` decoded samples may be kept, images at most so large as it says.
    pub(crate) fn new(fields: Vec<Field>, limits: Limits, keeping: Option<Keeping>) -> Self {
        let is_mask = |field: &Field| matches!(field.kind, FieldKind::Mask { .. });
        let (masks, others): (Vec<_>, Vec<_>) = (0..fields.len()).partition(|&field| is_mask(&fields[field]));
        let measured: Vec<bool> = fields.iter().map(|field| measured(&fields, field)).collect();
        let fixed = fields.iter().map(|field| fixed_row(&fields, field).is_some()).collect();
        let picture = |kind: &FieldKind| matches!(kind, FieldKind::Image { .. } | FieldKind::Mask { .. });
        let measures_pictures =
            fields.iter().zip(&measured).any(|(field, measured)| *measured && picture(&field.kind));
        let converters = fields.iter().map(|field| converter(&field.kind)).collect();
        let steps = |field: &Field| match (&field.kind, keeping) {
            (FieldKind::Image { transforms, .. }, Some(Keeping { max_side })) => {
                Some(Steps::new(transforms, max_side))
            }
            _ => None,
        };
        let steps = fields.iter().map(steps).collect();
        Self {
            fields,
            limits,
            converters,
            turns: [others, masks].concat(),
            measured,
            fixed,
            measures_pictures,
            steps,
            keeping: keeping.is_some(),
        }
    }

    /// Whether decoded samples are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.keeping
    }

    /// How batches of these fields lie in memory.
    pub(crate) fn layout_of(fields: &[Field]) -> Layout {
        let column = |field: &Field| ColumnLayout {
            name: field.name.clone(),
            row: fixed_row(fields, field),
            kind: Kind::of(&field.kind),
            shapes: field.shapes,
            channels_last: matches!(
                field.kind,
                FieldKind::Image { convert: Convert { layout: PixelLayout::ChannelsLast, .. }, .. }
            ),
        };
        Layout { columns: fields.iter().map(column).collect() }
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

    /// Whether measuring opens pictures: work for a decoding thread.
    pub(crate) fn measures_pictures(&self) -> bool {
        self.measures_pictures
    }

    /// Type and shape of every value that the layout doesn't know; from headers and lengths alone.
    pub(crate) fn measure(
        &self,
        from: From<'_>,
        draws: EpochRng,
        number: u64,
    ) -> Result<Vec<Option<Form>>, Failed> {
        self.with_decoder(draws, number, |decoder, draws| {
            // What the last image on this thread was allowed has nothing to do with this one.
            decoder.set_max_decode_bytes(self.limits.max_decode_bytes);
            let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
            let mut forms: Vec<Option<Form>> = vec![None; self.fields.len()];
            for &field in self.turns.iter().filter(|&&field| self.measured[field]) {
                let form = match from {
                    From::Members(members) => {
                        self.form(decoder, field, &members[field], draws, &mut geometries)
                    }
                    From::Kept(record) => self.form_again(field, record, draws, &mut geometries),
                };
                let form = form.map_err(|error| Failed { field, error })?;
                forms[field] = form.filter(|_| !self.fixed[field]);
            }
            Ok(forms)
        })
    }

    fn form(
        &self,
        decoder: &mut Decoder,
        field: usize,
        bytes: &[u8],
        draws: &dyn Draws,
        geometries: &mut [Option<Geometry>],
    ) -> decode::Result<Option<Form>> {
        Ok(Some(match &self.fields[field].kind {
            FieldKind::Int | FieldKind::Float => return Ok(None),
            FieldKind::Image { transforms, convert, .. } => {
                let geometry = match &self.steps[field] {
                    Some(steps) => {
                        let kept = decoder.geometry(bytes, &steps.kept, draws)?.output();
                        steps.geometry(kept, draws, &Limits { max_decode_bytes: u64::MAX, ..self.limits })?
                    }
                    None => decoder.geometry(bytes, transforms, draws)?,
                };
                let size = geometries[field].insert(geometry).output();
                picture(convert, size.height, size.width)
            }
            FieldKind::Mask { like } => pixels(self.geometry_of(like, geometries)?, 1),
            FieldKind::Text | FieldKind::Json | FieldKind::Bytes => Form::new(DType::U8, [bytes.len()]),
            FieldKind::Numpy => {
                let header = npy::parse(bytes)?;
                Form::new(header.dtype, header.shape)
            }
        }))
    }

    fn geometry_of<'a>(
        &self,
        like: &str,
        geometries: &'a [Option<Geometry>],
    ) -> decode::Result<&'a Geometry> {
        let image = self.fields.iter().position(|field| field.name == like);
        let geometry = image.and_then(|image| geometries[image].as_ref());
        geometry.ok_or_else(|| DecodeError::new(format!("like={like:?} is no image")))
    }

    /// Makes every field of a sample in its cell, but for those that are `drawn` already, holding at most `allowed_bytes` beside them; where
    /// decoded samples are kept, also what may be kept of this one.
    pub(crate) fn decode(
        &self,
        from: From<'_>,
        cells: &mut [Option<Row>],
        drawn: &[bool],
        allowed_bytes: u64,
        draws: EpochRng,
        number: u64,
    ) -> Result<Option<Kept>, Failed> {
        self.with_decoder(draws, number, |decoder, draws| {
            decoder.set_max_decode_bytes(allowed_bytes);
            let members = match from {
                From::Members(members) => members,
                From::Kept(record) => {
                    self.again(decoder, |field| record.value(field), cells, draws)?;
                    return Ok(None);
                }
            };
            if self.keeps() {
                let kept = self.kept(decoder, members, allowed_bytes, draws)?;
                decoder.set_max_decode_bytes(allowed_bytes.saturating_sub(kept.bytes() as u64));
                let value = |field: usize| (&kept.values[field].0, &kept.values[field].1[..]);
                self.again(decoder, value, cells, draws).map_err(|failed| failed.beside(kept.bytes()))?;
                return Ok(Some(kept));
            }
            let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
            for &field in &self.turns {
                let bytes = &members[field];
                if drawn.get(field) == Some(&true) {
                    let geometry = self.drawn(decoder, field, bytes, draws);
                    geometries[field] = geometry.map_err(|error| Failed { field, error })?;
                    continue;
                }
                let made = cell_of(cells, field)
                    .and_then(|cell| self.field(decoder, field, bytes, cell, draws, &mut geometries));
                made.map_err(|error| Failed { field, error })?;
            }
            Ok(None)
        })
    }

    /// What a device needs to know of those of a sample's fields that it takes: JPEG images alone. Others, and those that can't be decoded at
    /// all, are left out.
    pub(crate) fn drafts(
        &self,
        members: &[Lease],
        draws: EpochRng,
        number: u64,
        takes: impl Fn(usize) -> bool,
    ) -> Vec<(usize, Result<Draft, Refusal>)> {
        self.with_decoder(draws, number, |decoder, draws| {
            let draft = |field: usize| {
                let FieldKind::Image { transforms, .. } = &self.fields[field].kind else { return None };
                let bytes = &members[field];
                // Start of image: other formats are the CPU's.
                if !bytes.starts_with(&[0xFF, 0xD8]) {
                    return None;
                }
                let header = match header::read(bytes) {
                    Ok(header) => header,
                    Err(refusal) => return Some((field, Err(refusal))),
                };
                let (geometry, orientation) = decoder.turned_geometry(bytes, transforms, draws).ok()?;
                let frame = Frame { width: header.width, height: header.height };
                let stored = orientation.size(geometry.input);
                if (stored.width, stored.height) != (frame.width, frame.height) {
                    return None;
                }
                Some((field, Ok(Draft { frame, orientation, stage: only_stage(geometry)? })))
            };
            (0..self.fields.len()).filter(|&field| takes(field)).filter_map(draft).collect()
        })
    }

    /// The geometry of an image that is drawn already, where a mask takes it over.
    fn drawn(
        &self,
        decoder: &mut Decoder,
        field: usize,
        bytes: &[u8],
        draws: &dyn Draws,
    ) -> decode::Result<Option<Geometry>> {
        let name = &self.fields[field].name;
        let is_taken_over = |other: &Field| matches!(&other.kind, FieldKind::Mask { like } if like == name);
        match &self.fields[field].kind {
            FieldKind::Image { transforms, .. } if self.fields.iter().any(is_taken_over) => {
                decoder.geometry(bytes, transforms, draws).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn with_decoder<T>(
        &self,
        draws: EpochRng,
        number: u64,
        work: impl FnOnce(&mut Decoder, &dyn Draws) -> T,
    ) -> T {
        let draws = draws.draws(number);
        DECODER.with_borrow_mut(|slot| work(slot.get_or_insert_with(|| Decoder::new(self.limits)), &draws))
    }

    /// Frees what the calling thread's decoder keeps from image to image.
    pub(crate) fn forget() {
        DECODER.with_borrow_mut(|slot| *slot = None);
    }

    fn field(
        &self,
        decoder: &mut Decoder,
        field: usize,
        bytes: &[u8],
        cell: &mut [u8],
        draws: &dyn Draws,
        geometries: &mut [Option<Geometry>],
    ) -> decode::Result<()> {
        match &self.fields[field].kind {
            FieldKind::Image { transforms, decode, .. } => {
                let done = match &self.converters[field] {
                    Some(converter) => {
                        decoder.converted(bytes, transforms, *decode, draws, converter, cell)?
                    }
                    None => decoder.image(bytes, transforms, *decode, draws, ImageOut::Slot(cell))?,
                };
                geometries[field] = Some(done.geometry);
            }
            FieldKind::Mask { like } => {
                decoder.mask(bytes, self.geometry_of(like, geometries)?, ImageOut::Slot(cell))?;
            }
            FieldKind::Int => cell.copy_from_slice(&scalar::int(bytes)?.to_ne_bytes()),
            FieldKind::Float => cell.copy_from_slice(&scalar::float(bytes)?.to_ne_bytes()),
            FieldKind::Text => cell.copy_from_slice(scalar::text(bytes)?.as_bytes()),
            FieldKind::Json => cell.copy_from_slice(scalar::json(bytes)?.as_bytes()),
            FieldKind::Bytes => cell.copy_from_slice(bytes),
            FieldKind::Numpy => npy::parse(bytes)?.read(bytes, cell)?,
        }
        Ok(())
    }

    /// The error of a field whose decoding needs more memory than there may ever be.
    pub(crate) fn too_large(&self, sample: &Found, field: usize, what: String) -> Error {
        self.at(sample, field, &DecodeError::new(what))
    }

    /// The error of a field that can't be made.
    pub(crate) fn failed(&self, sample: &Found, failed: &Failed) -> Error {
        self.at(sample, failed.field, &failed.error)
    }

    /// The error of a sample whose values need more memory than there may ever be: its largest member's, of those that have no fixed size.
    pub(crate) fn values_too_large(&self, sample: &Found, forms: &[Option<Form>], what: String) -> Error {
        let bytes = |field: &usize| forms[*field].as_ref().map_or(0, Form::bytes);
        let largest = (0..forms.len()).max_by_key(bytes).unwrap_or(0);
        self.at(sample, largest, &DecodeError::new(what))
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

fn measured(fields: &[Field], field: &Field) -> bool {
    let taken_over = |mask: &Field| {
        matches!(&mask.kind, FieldKind::Mask { like } if *like == field.name)
            && fixed_row(fields, mask).is_none()
    };
    fixed_row(fields, field).is_none() || fields.iter().any(taken_over)
}

/// What converts an image's pixels, where anything does.
fn converter(kind: &FieldKind) -> Option<Converter> {
    match kind {
        FieldKind::Image { convert, .. } if !convert.is_plain() => Some(Converter::new(convert)),
        _ => None,
    }
}

/// Type and shape of an image of this size.
fn picture(convert: &Convert, height: u32, width: u32) -> Form {
    Form::new(convert.dtype.dtype(), convert.shape(height as usize, width as usize))
}

/// Type and shape of a field's row, where they don't depend on the sample.
fn fixed_row(fields: &[Field], field: &Field) -> Option<Form> {
    if field.shapes == crate::field::Shapes::Ragged {
        return None;
    }
    match &field.kind {
        FieldKind::Int => Some(Form::new(DType::I64, [])),
        FieldKind::Float => Some(Form::new(DType::F64, [])),
        FieldKind::Image { transforms, convert, .. } => {
            let (height, width) = decode::fixed_output(transforms)?;
            Some(picture(convert, height, width))
        }
        FieldKind::Mask { like } => {
            let image = fields.iter().find(|field| field.name == *like)?;
            let FieldKind::Image { transforms, .. } = &image.kind else { return None };
            let (height, width) = decode::fixed_output(transforms)?;
            Some(Form::new(DType::U8, [height as usize, width as usize]))
        }
        _ => None,
    }
}

/// How a place for a field is reached.
fn cell_of(cells: &mut [Option<Row>], field: usize) -> decode::Result<&mut [u8]> {
    let cell = cells.get_mut(field).and_then(Option::as_deref_mut);
    cell.ok_or_else(|| DecodeError::new("a field has no place to be decoded to"))
}

fn pixels(geometry: &Geometry, channels: usize) -> Form {
    let size = geometry.output();
    let (height, width) = (size.height as usize, size.width as usize);
    match channels {
        1 => Form::new(DType::U8, [height, width]),
        _ => Form::new(DType::U8, [height, width, channels]),
    }
}

/// Why a field was not made.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) field: usize,
    pub(crate) error: DecodeError,
}

impl Failed {
    /// Its decoding holds more bytes at once than it was allowed: so many, beside what is held already.
    fn beside(mut self, held: usize) -> Self {
        self.error.needs_bytes = self.error.needs_bytes.map(|bytes| bytes + held as u64);
        self
    }
}
