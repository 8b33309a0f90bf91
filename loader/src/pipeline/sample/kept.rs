//! What is kept of a sample, decoded, and how its cells are made from that.

use forebay_cache::Lease;
use forebay_cache::memory::Row;

use super::{Failed, SampleDecoder, cell_of, picture, pixels};
use crate::decode::geometry::Stage;
use crate::decode::{self, DecodeError, Decoder, Draws, Geometry, ImageOut, Limits, Size, Steps, npy};
use crate::decoded::Record;
use crate::device::only_stage;
use crate::dtype::DType;
use crate::field::FieldKind;
use crate::pipeline::slot::Form;
use crate::plan::EpochRng;

/// A sample's values as they are kept: images before their first random step.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) values: Vec<(Form, Vec<u8>)>,
}

impl Kept {
    pub(crate) fn bytes(&self) -> usize {
        self.values.iter().map(|(_, value)| value.len()).sum()
    }
}

impl SampleDecoder {
    /// The same of a value that was kept.
    pub(super) fn form_again(
        &self,
        field: usize,
        record: &Record,
        draws: &dyn Draws,
        geometries: &mut [Option<Geometry>],
    ) -> decode::Result<Option<Form>> {
        let (form, _) = record.value(field);
        Ok(match &self.fields[field].kind {
            FieldKind::Image { convert, .. } => {
                let unbounded = Limits { max_decode_bytes: u64::MAX, ..self.limits };
                let geometry = self.steps(field)?.geometry(size_of_form(form), draws, &unbounded)?;
                let size = geometries[field].insert(geometry).output();
                Some(picture(convert, size.height, size.width))
            }
            FieldKind::Mask { like } => Some(pixels(self.geometry_of(like, geometries)?, 1)),
            FieldKind::Int | FieldKind::Float => None,
            _ => Some(form.clone()),
        })
    }

    /// What is cut out of each kept picture of a sample, by field; none where anything takes more than one stage.
    pub(crate) fn stages(
        &self,
        size: impl Fn(usize) -> Size,
        draws: EpochRng,
        number: u64,
    ) -> Option<Box<[Option<Stage>]>> {
        let draws = draws.draws(number);
        let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
        let mut stages = vec![None; self.fields.len()];
        for &field in &self.turns {
            let geometry = match &self.fields[field].kind {
                FieldKind::Image { .. } => {
                    let steps = self.steps(field).ok()?;
                    // Of the CPU's memory for it nothing is needed.
                    let unbounded = Limits { max_decode_bytes: u64::MAX, ..self.limits };
                    let geometry = steps.geometry(size(field), &draws, &unbounded).ok()?;
                    geometries[field].insert(geometry).clone()
                }
                FieldKind::Mask { like } => self.geometry_of(like, &geometries).ok()?.nearest(),
                _ => continue,
            };
            stages[field] = Some(only_stage(geometry)?);
        }
        Some(stages.into())
    }

    fn steps(&self, field: usize) -> decode::Result<&Steps> {
        self.steps[field].as_ref().ok_or_else(|| DecodeError::new("nothing is kept of this field"))
    }

    /// Decodes what is kept of a sample.
    pub(super) fn kept(
        &self,
        decoder: &mut Decoder,
        members: &[Lease],
        allowed_bytes: u64,
        draws: &dyn Draws,
    ) -> Result<Kept, Failed> {
        let mut values: Vec<(Form, Vec<u8>)> = Vec::new();
        values.resize_with(self.fields.len(), || (Form::new(DType::U8, []), Vec::new()));
        let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
        let mut held = 0;
        for &field in &self.turns {
            decoder.set_max_decode_bytes(allowed_bytes);
            let made = self.kept_form(decoder, field, &members[field], draws, &geometries).and_then(|form| {
                let bytes = form.bytes();
                let left = allowed_bytes.checked_sub((held + bytes) as u64).ok_or_else(|| DecodeError {
                    needs_bytes: Some(bytes as u64),
                    ..DecodeError::new("decoding it takes more memory than there is")
                })?;
                decoder.set_max_decode_bytes(left);
                let mut value = vec![0; bytes];
                self.keep(decoder, field, &members[field], &mut value, draws, &mut geometries).map_err(
                    |error| DecodeError {
                        needs_bytes: error.needs_bytes.map(|more| more + bytes as u64),
                        ..error
                    },
                )?;
                Ok((form, value))
            });
            let (form, value) = made.map_err(|error| Failed { field, error }.beside(held))?;
            held += value.len();
            values[field] = (form, value);
        }
        Ok(Kept { values })
    }

    /// Type and shape of what is kept of a field.
    fn kept_form(
        &self,
        decoder: &mut Decoder,
        field: usize,
        bytes: &[u8],
        draws: &dyn Draws,
        geometries: &[Option<Geometry>],
    ) -> decode::Result<Form> {
        Ok(match &self.fields[field].kind {
            FieldKind::Image { .. } => pixels(&decoder.geometry(bytes, &self.steps(field)?.kept, draws)?, 3),
            FieldKind::Mask { like } => pixels(self.geometry_of(like, geometries)?, 1),
            FieldKind::Int => Form::new(DType::I64, []),
            FieldKind::Float => Form::new(DType::F64, []),
            FieldKind::Text | FieldKind::Json | FieldKind::Bytes => Form::new(DType::U8, [bytes.len()]),
            FieldKind::Numpy => {
                let header = npy::parse(bytes)?;
                Form::new(header.dtype, header.shape)
            }
        })
    }

    fn keep(
        &self,
        decoder: &mut Decoder,
        field: usize,
        bytes: &[u8],
        value: &mut [u8],
        draws: &dyn Draws,
        geometries: &mut [Option<Geometry>],
    ) -> decode::Result<()> {
        let FieldKind::Image { decode, .. } = &self.fields[field].kind else {
            return self.field(decoder, field, bytes, value, draws, geometries);
        };
        let kept = &self.steps(field)?.kept;
        geometries[field] = Some(decoder.image(bytes, kept, *decode, draws, ImageOut::Slot(value))?.geometry);
        Ok(())
    }

    /// Makes every field from what was kept of it.
    pub(super) fn again<'a>(
        &self,
        decoder: &mut Decoder,
        value: impl Fn(usize) -> (&'a Form, &'a [u8]),
        cells: &mut [Option<Row>],
        draws: &dyn Draws,
    ) -> Result<(), Failed> {
        let mut geometries: Vec<Option<Geometry>> = vec![None; self.fields.len()];
        for &field in &self.turns {
            let (form, bytes) = value(field);
            let made = cell_of(cells, field).and_then(|cell| match &self.fields[field].kind {
                FieldKind::Image { .. } => {
                    let geometry = decoder.again_converted(
                        bytes,
                        size_of_form(form),
                        self.steps(field)?,
                        draws,
                        self.converters[field].as_ref(),
                        cell,
                    )?;
                    geometries[field] = Some(geometry);
                    Ok(())
                }
                FieldKind::Mask { like } => {
                    decoder.mask_again(bytes, self.geometry_of(like, &geometries)?, cell)
                }
                _ if cell.len() == bytes.len() => {
                    cell.copy_from_slice(bytes);
                    Ok(())
                }
                _ => Err(DecodeError::new("what was kept of it has another size than its place")),
            });
            made.map_err(|error| Failed { field, error })?;
        }
        Ok(())
    }
}

/// The size of a picture of this form.
fn size_of_form(form: &Form) -> Size {
    let side = |at: usize| form.shape.get(at).map_or(0, |&side| u32::try_from(side).unwrap_or(u32::MAX));
    Size { width: side(1), height: side(0) }
}
