//! A member's bytes → a value in a given slice of a batch slot, on rayon workers.
//!
//! A [`Decoder`] belongs to one thread and does no I/O. Its promises:
//!
//! - The format is what the bytes say, whatever the member is called.
//! - Of a JPEG only the rows and columns that the crop needs are decoded, and the resize writes into the slot itself; where the slot holds
//!   other numbers than pixels, into memory that the decoder keeps, from which [`Converter`] writes into the slot.
//! - [`DecodeMode::Exact`] equals Pillow's `exif_transpose`, `convert("RGB")`, `crop`, `resize` within 2 levels; see
//!   docs/decoding.md for what was measured.
//! - Damaged or hostile bytes are a [`DecodeError`]: no panic, no hang, no memory beyond [`Limits`].
//! - Scratch memory is kept from image to image, but never more than [`Limits::max_scratch_bytes`].
//!
//! bytes → ([`jpeg`] or formats) → pixels of a region → ([`geometry`] says what with them) → resize (→ [`convert`]) → slot.
//! Which random numbers are drawn is [`Draws`]' affair; which shard a member came from, the pipeline's.

mod again;
pub mod convert;
pub mod error;
mod formats;
pub mod geometry;
pub mod jpeg;
pub mod limits;
mod mask;
pub mod npy;
pub mod orientation;
mod point;
mod resize;
pub mod scalar;
mod scratch;
mod stored;
#[cfg(test)]
pub(crate) mod testing;
mod torchvision;

pub use again::Steps;
pub use convert::Converter;
pub use error::{DecodeError, Result};
pub use geometry::{Draws, Geometry, fixed_output, resolve};
pub use limits::Limits;
pub use orientation::Size;
pub use stored::Cut;

use crate::field::{DecodeMode, Transform};
use formats::Format;
use geometry::Stage;
use limits::MAX_SCANS;
use orientation::{Orientation, Rect};
use resize::{Mirrored, Resampler, View};
use stored::{Gather, Work};

/// Where pixels go.
#[derive(Debug)]
pub enum ImageOut<'a> {
    /// Into a slot of exactly height · width · channels bytes.
    Slot(&'a mut [u8]),
    /// Into a new vector: for fields whose output size is not fixed.
    New,
}

/// A decoded image or mask.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// uint8 [height, width, 3] for an image, [height, width] for a mask; `None` where a slot was given.
    pub pixels: Option<Vec<u8>>,
    /// What became of the picture; masks take it over.
    pub geometry: Geometry,
    /// 1, or what a JPEG was shrunk by while decoding: 2, 4, 8.
    pub denominator: u32,
}

impl Decoded {
    /// Rows and columns of the output.
    pub fn size(&self) -> Size {
        self.geometry.output()
    }
}

/// Columns that a JPEG is decoded beyond a region, at most: whole blocks of the coarsest sampling at either side.
const MARGINS: u64 = 2 * 32;

/// Decodes one member after another; one per thread.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    jpeg: Option<jpeg::Decompressor>,
    resampler: Resampler,
    buffers: Buffers,
}

/// Kept from image to image.
#[derive(Debug, Default)]
struct Buffers {
    /// Pixels as decoded.
    source: Vec<u8>,
    /// Pixels in a format's own colours, or resized ones before they are turned or padded.
    aside: Vec<u8>,
    /// Outputs of stages before the last.
    stages: [Vec<u8>; 2],
    /// The last one's, before it is converted.
    finished: Vec<u8>,
}

impl Buffers {
    fn all(&self) -> [&Vec<u8>; 5] {
        [&self.source, &self.aside, &self.stages[0], &self.stages[1], &self.finished]
    }

    fn all_mut(&mut self) -> [&mut Vec<u8>; 5] {
        let [first, second] = &mut self.stages;
        [&mut self.source, &mut self.aside, first, second, &mut self.finished]
    }
}

impl Decoder {
    /// A decoder with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self { limits, jpeg: None, resampler: Resampler::default(), buffers: Buffers::default() }
    }

    /// Sets [`Limits::max_decode_bytes`] for the images that follow.
    pub fn set_max_decode_bytes(&mut self, bytes: u64) {
        self.limits.max_decode_bytes = bytes;
    }

    /// What becomes of an image, from its header alone.
    ///
    /// # Errors
    /// Bytes that are no image of a known format, a damaged header, more pixels than the limit.
    pub fn geometry(
        &mut self,
        bytes: &[u8],
        transforms: &[Transform],
        draws: &dyn Draws,
    ) -> Result<Geometry> {
        self.turned_geometry(bytes, transforms, draws).map(|(geometry, _)| geometry)
    }

    /// As [`Self::geometry`], and how the image is stored.
    ///
    /// # Errors
    /// As [`Self::geometry`].
    pub fn turned_geometry(
        &mut self,
        bytes: &[u8],
        transforms: &[Transform],
        draws: &dyn Draws,
    ) -> Result<(Geometry, Orientation)> {
        let (size, orientation) = match formats::sniff(bytes)? {
            Format::Jpeg => {
                let header = decompressor(&mut self.jpeg)?.open(bytes, &self.limits)?.header();
                (header.size, header.orientation)
            }
            other => {
                let header = formats::header(bytes, other, &self.limits)?;
                (header.size, header.orientation)
            }
        };
        let unbounded = Limits { max_decode_bytes: u64::MAX, ..self.limits };
        Ok((resolve(transforms, orientation.size(size), draws, &unbounded)?, orientation))
    }

    /// Bytes of scratch memory held between images: at most [`Limits::max_scratch_bytes`].
    pub fn scratch_bytes(&self) -> usize {
        let buffers: usize = self.buffers.all().iter().map(|buffer| buffer.capacity()).sum();
        let coded = self.jpeg.as_ref().map_or(0, jpeg::Decompressor::scratch_bytes);
        buffers + self.resampler.scratch_bytes() + coded
    }

    /// Decodes an image and applies `transforms`: uint8 RGB.
    ///
    /// # Errors
    /// Bytes that are no image of a known format, damaged ones, ones beyond the limits; a slot of another size.
    pub fn image(
        &mut self,
        bytes: &[u8],
        transforms: &[Transform],
        mode: DecodeMode,
        draws: &dyn Draws,
        out: ImageOut<'_>,
    ) -> Result<Decoded> {
        let result = self.image_beside(0, bytes, transforms, mode, draws, out);
        self.trim();
        result
    }

    /// As [`Self::image`], with the pixels converted into `slot`, which has the bytes of an output of the right size.
    ///
    /// # Errors
    /// As [`Self::image`].
    pub fn converted(
        &mut self,
        bytes: &[u8],
        transforms: &[Transform],
        mode: DecodeMode,
        draws: &dyn Draws,
        converter: &Converter,
        slot: &mut [u8],
    ) -> Result<Decoded> {
        self.through(converter, slot, |decoder, pixels| {
            let beside = pixels.len() as u64;
            decoder.image_beside(beside, bytes, transforms, mode, draws, ImageOut::Slot(pixels))
        })
    }

    /// Has an image's pixels made in memory that is kept from image to image, and converts them into `slot`.
    fn through<T>(
        &mut self,
        converter: &Converter,
        slot: &mut [u8],
        make: impl FnOnce(&mut Self, &mut [u8]) -> Result<T>,
    ) -> Result<T> {
        let length = slot.len() / converter.number_bytes();
        self.limits.check_bytes("the output", length as u64)?;
        let mut finished = std::mem::take(&mut self.buffers.finished);
        scratch::grow(&mut finished, length);
        let result = make(self, &mut finished[..length]);
        if result.is_ok() {
            converter.convert(&finished[..length], slot);
        }
        self.buffers.finished = finished;
        self.trim();
        result
    }

    /// Holds `beside` bytes already.
    fn image_beside(
        &mut self,
        beside: u64,
        bytes: &[u8],
        transforms: &[Transform],
        mode: DecodeMode,
        draws: &dyn Draws,
        out: ImageOut<'_>,
    ) -> Result<Decoded> {
        match formats::sniff(bytes)? {
            Format::Jpeg => self.jpeg_image(beside, bytes, transforms, mode, draws, out),
            other => self.other_image(beside, bytes, other, transforms, draws, out),
        }
    }

    /// Decodes a mask with an image's geometry: uint8 class indexes, the nearest ones, never mixed.
    ///
    /// # Errors
    /// As [`Self::image`]; a picture with several values a pixel; one of another size than the image.
    pub fn mask(&mut self, bytes: &[u8], geometry: &Geometry, out: ImageOut<'_>) -> Result<Decoded> {
        let result = self.mask_pixels(bytes, geometry, out);
        self.trim();
        result
    }

    fn jpeg_image(
        &mut self,
        beside: u64,
        bytes: &[u8],
        transforms: &[Transform],
        mode: DecodeMode,
        draws: &dyn Draws,
        out: ImageOut<'_>,
    ) -> Result<Decoded> {
        let Self { limits, jpeg, resampler, buffers } = self;
        let open = decompressor(jpeg)?.open(bytes, limits)?;
        let header = open.header();
        let geometry = resolve(transforms, header.orientation.size(header.size), draws, limits)?;
        let work = Work::new(&geometry.stages[0], header.orientation);
        let denominator = match (&work, mode) {
            (Work::Resize(resize), DecodeMode::Fast) => resize.denominator(),
            _ => 1,
        };
        let region = match &work {
            Work::Resize(resize) => resize.region_scaled(denominator).map(|(region, _)| region),
            Work::Gather(_) => work.region(),
        };
        let pixels = region.map_or(0, |region| region.size().pixels() + MARGINS * u64::from(region.height));
        let channels = if header.components == 4 { 4 } else { 3 };
        // The decoder of coefficients copies what it reads.
        let needed = beside + header.coefficient_bytes + pixels * channels + bytes.len() as u64;
        limits.check_bytes("JPEG", needed.saturating_add(geometry.stage_bytes(3)))?;
        let mut source = std::mem::take(&mut buffers.source);
        let nothing = Rect { x: 0, y: 0, width: 0, height: 0 };
        let held = match region {
            Some(region) => open.decode(region, denominator, limits, &mut source)?,
            None => nothing,
        };
        let view = View { pixels: &source[..held.size().pixels() as usize * 3], held };
        let result = finish(geometry, &work, denominator, view, Tools { limits, resampler, buffers }, out);
        buffers.source = source;
        result
    }

    fn other_image(
        &mut self,
        beside: u64,
        bytes: &[u8],
        format: Format,
        transforms: &[Transform],
        draws: &dyn Draws,
        out: ImageOut<'_>,
    ) -> Result<Decoded> {
        let Self { limits, resampler, buffers, .. } = self;
        let admit = |header: &formats::Header| {
            let geometry = resolve(transforms, header.orientation.size(header.size), draws, limits)?;
            let needed = beside.saturating_add(header.held_bytes).saturating_add(geometry.stage_bytes(3));
            limits.check_bytes(format.name(), needed)?;
            Ok(geometry)
        };
        let mut source = std::mem::take(&mut buffers.source);
        let (geometry, stored) =
            formats::decode(bytes, format, limits, &mut buffers.aside, &mut source, admit)?;
        let work = Work::new(&geometry.stages[0], stored.orientation);
        let view =
            View { pixels: &source[..stored.size.pixels() as usize * 3], held: Rect::all(stored.size) };
        let result = finish(geometry, &work, 1, view, Tools { limits, resampler, buffers }, out);
        buffers.source = source;
        result
    }

    fn mask_pixels(&mut self, bytes: &[u8], geometry: &Geometry, out: ImageOut<'_>) -> Result<Decoded> {
        let Self { limits, jpeg, buffers, .. } = self;
        let (indexes, size, orientation) = mask::indexes(bytes, limits, jpeg, buffers)?;
        if orientation.size(size) != geometry.input {
            return Err(DecodeError::new(format!(
                "the mask is {}, its image is {}: they must have the same size",
                orientation.size(size),
                geometry.input
            )));
        }
        let geometry = geometry.nearest();
        limits.check_bytes("mask", (size.pixels() * 3).saturating_add(geometry.stage_bytes(1)))?;
        let pixels = indexes_through(&geometry, &indexes, orientation, size, limits, out)?;
        Ok(Decoded { pixels, geometry, denominator: 1 })
    }

    /// Keeps to the bound on scratch memory: the largest buffers go first.
    fn trim(&mut self) {
        let limit = self.limits.max_scratch_bytes;
        if self.scratch_bytes() <= limit {
            return;
        }
        for buffer in self.buffers.all_mut() {
            scratch::trim(buffer, limit / 4);
        }
        if self.scratch_bytes() > limit {
            self.resampler.forget();
        }
        if self.scratch_bytes() > limit {
            self.jpeg.iter_mut().for_each(jpeg::Decompressor::forget);
        }
    }
}

fn decompressor(slot: &mut Option<jpeg::Decompressor>) -> Result<&mut jpeg::Decompressor> {
    if slot.is_none() {
        *slot = jpeg::Decompressor::new();
    }
    slot.as_mut().ok_or_else(|| DecodeError::new("JPEG: no memory for a decompressor"))
}

struct Tools<'a> {
    limits: &'a Limits,
    resampler: &'a mut Resampler,
    buffers: &'a mut Buffers,
}

/// Runs the stages on the decoded `view`; the last one writes the output itself.
fn finish(
    geometry: Geometry,
    first: &Work,
    denominator: u32,
    view: View<'_>,
    tools: Tools<'_>,
    out: ImageOut<'_>,
) -> Result<Decoded> {
    let Tools { limits, resampler, buffers } = tools;
    let pixels = output(geometry.output(), 3, limits, out, |target| {
        let Some((last, before)) = geometry.stages.split_last() else { return Ok(()) };
        let [mut now, mut next] = std::mem::take(&mut buffers.stages);
        let mut done = None;
        let mut run = |stage: &Stage, done: Option<Size>, now: &[u8], to: &mut [u8]| match done {
            None => apply(resampler, first, denominator, view, &mut buffers.aside, to),
            Some(size) => {
                let view = View { pixels: &now[..size.pixels() as usize * 3], held: Rect::all(size) };
                apply(resampler, &Work::new(stage, Orientation::default()), 1, view, &mut buffers.aside, to)
            }
        };
        for stage in before {
            let length = stage.output().pixels() * 3;
            limits.check_bytes("a transform's output", length)?;
            scratch::grow(&mut next, length as usize);
            run(stage, done, &now, &mut next[..length as usize]);
            std::mem::swap(&mut now, &mut next);
            done = Some(stage.output());
        }
        run(last, done, &now, target);
        buffers.stages = [now, next];
        Ok(())
    })?;
    Ok(Decoded { pixels, geometry, denominator })
}

/// Runs the stages of a geometry that was made nearest on class indexes of this stored size.
fn indexes_through(
    geometry: &Geometry,
    indexes: &[u8],
    orientation: Orientation,
    size: Size,
    limits: &Limits,
    out: ImageOut<'_>,
) -> Result<Option<Vec<u8>>> {
    output(geometry.output(), 1, limits, out, |target| {
        let (mut before, mut held) = (None::<Vec<u8>>, Rect::all(size));
        for (number, stage) in geometry.stages.iter().enumerate() {
            let gather =
                match Work::new(stage, if number == 0 { orientation } else { Orientation::default() }) {
                    Work::Gather(gather) => gather,
                    Work::Resize(_) => unreachable!("the geometry was made nearest"),
                };
            let view = View { pixels: before.as_deref().unwrap_or(indexes), held };
            if number + 1 == geometry.stages.len() {
                resize::gather::<1>(view, &gather, target);
            } else {
                let mut next = vec![0; stage.output().pixels() as usize];
                resize::gather::<1>(view, &gather, &mut next);
                (before, held) = (Some(next), Rect::all(stage.output()));
            }
        }
        Ok(())
    })
}

/// Gives `write` the slot, or a vector of the right size.
fn output(
    size: Size,
    channels: u64,
    limits: &Limits,
    out: ImageOut<'_>,
    write: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<Option<Vec<u8>>> {
    let length = size.pixels() * channels;
    match out {
        ImageOut::Slot(slot) if slot.len() as u64 == length => write(slot).map(|()| None),
        ImageOut::Slot(slot) => Err(DecodeError::new(format!(
            "the output is {size}, {length} bytes, and its slot has {}; without a transform of fixed size, \
             use pad= or ragged=True",
            slot.len()
        ))),
        ImageOut::New => {
            limits.check_bytes("the output", length)?;
            let mut pixels = vec![0; length as usize];
            write(&mut pixels).map(|()| Some(pixels))
        }
    }
}

/// Runs one stage from `view`, which holds what it needs at 1/`denominator`, into `to`.
fn apply(
    resampler: &mut Resampler,
    work: &Work,
    denominator: u32,
    view: View<'_>,
    aside: &mut Vec<u8>,
    to: &mut [u8],
) {
    let resize = match work {
        Work::Gather(gather) => {
            resize::gather::<3>(view, gather, to);
            return;
        }
        Work::Resize(resize) => resize,
    };
    let Some((region, placed)) = resize.region_scaled(denominator) else {
        to.fill(0);
        return;
    };
    if resize.is_direct() {
        let mirrored = Mirrored { columns: resize.turn.flip_x, rows: resize.turn.flip_y };
        resampler.resize(view, region, &placed, mirrored, to);
        return;
    }
    let length = placed.to.pixels() as usize * 3;
    scratch::grow(aside, length);
    resampler.resize(view, region, &placed, Mirrored::default(), &mut aside[..length]);
    let resized = View { pixels: &aside[..length], held: Rect::all(placed.to) };
    resize::gather::<3>(resized, &Gather::turning(resize), to);
}

#[cfg(test)]
mod tests;
