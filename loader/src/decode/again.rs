//! From decoded pixels on: what is kept of an image from epoch to epoch, and what becomes of it in each.

use super::error::{DecodeError, Result};
use super::geometry::{Draws, Geometry, resolve};
use super::limits::Limits;
use super::orientation::{Orientation, Rect, Size};
use super::resize::{self, View};
use super::stored::Work;
use super::{Converter, Decoder, ImageOut, Tools, finish};
use crate::field::{Interpolation, ResizeTo, Transform};

/// An image's transforms in two parts. What the first one makes is the same in every epoch, and may be kept; the second one begins with
/// the first random step. Images take both parts one after the other, whether they were kept in between or not, so that their pixels don't
/// depend on that.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Before pixels are kept.
    pub kept: Vec<Transform>,
    /// Of what is kept, in every epoch.
    pub then: Vec<Transform>,
    /// The place of `then`'s first step in the whole list, which its draws are keyed by.
    first: u32,
}

impl Steps {
    /// Parts `transforms`. With `max_side` images are first shrunk to at most so many pixels of their longer side, as if the dataset held
    /// them so.
    pub fn new(transforms: &[Transform], max_side: Option<u32>) -> Self {
        let is_random = |step: &Transform| match step {
            Transform::RandomResizedCrop { .. }
            | Transform::RandomCrop { .. }
            | Transform::RandomHorizontalFlip { .. } => true,
            Transform::Resize { .. } | Transform::CenterCrop { .. } => false,
        };
        let first = transforms.iter().position(is_random).unwrap_or(transforms.len());
        let (kept, then) = transforms.split_at(first);
        let shrunk = max_side.map(|side| Transform::Resize {
            size: ResizeTo::Within(side),
            interpolation: Interpolation::Bilinear,
            antialias: true,
        });
        Self {
            kept: shrunk.into_iter().chain(kept.to_vec()).collect(),
            then: then.to_vec(),
            first: first as u32,
        }
    }

    /// What becomes of kept pixels of this size.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn geometry(&self, kept: Size, draws: &dyn Draws, limits: &Limits) -> Result<Geometry> {
        resolve(&self.then, kept, &|step, draw| draws.uniform(step + self.first, draw), limits)
    }
}

impl Decoder {
    /// Makes an image of kept pixels: RGB, of this size.
    ///
    /// # Errors
    /// Transforms that this size has no output for; a slot of another size; more memory than the limits.
    pub fn again(
        &mut self,
        pixels: &[u8],
        size: Size,
        steps: &Steps,
        draws: &dyn Draws,
        slot: &mut [u8],
    ) -> Result<Geometry> {
        check(pixels, size, 3)?;
        let Self { limits, resampler, buffers, .. } = self;
        let geometry = steps.geometry(size, draws, limits)?;
        let view = View { pixels, held: Rect::all(size) };
        if let [stage] = &geometry.stages[..]
            && let Some(part) = stage.plain_box()
            && slot.len() as u64 == part.size().pixels() * 3
        {
            resize::copy(view, part, stage.mirror, slot);
            return Ok(geometry);
        }
        limits.check_bytes("transforms", geometry.stage_bytes(3))?;
        let work = Work::new(&geometry.stages[0], Orientation::default());
        let tools = Tools { limits, resampler, buffers };
        let done = finish(geometry, &work, 1, view, tools, ImageOut::Slot(slot));
        self.trim();
        done.map(|done| done.geometry)
    }

    /// As [`Self::again`], with the pixels converted into `slot`, where something converts them.
    ///
    /// # Errors
    /// As [`Self::again`].
    pub fn again_converted(
        &mut self,
        pixels: &[u8],
        size: Size,
        steps: &Steps,
        draws: &dyn Draws,
        converter: Option<&Converter>,
        slot: &mut [u8],
    ) -> Result<Geometry> {
        let Some(converter) = converter else { return self.again(pixels, size, steps, draws, slot) };
        self.through(converter, slot, |decoder, finished| {
            // Held beside what the transforms take.
            let (beside, allowed) = (finished.len() as u64, decoder.limits.max_decode_bytes);
            decoder.limits.max_decode_bytes = allowed - beside;
            let result = decoder.again(pixels, size, steps, draws, finished);
            decoder.limits.max_decode_bytes = allowed;
            let more = |bytes| bytes + beside;
            result.map_err(|error| DecodeError { needs_bytes: error.needs_bytes.map(more), ..error })
        })
    }

    /// Makes a mask of kept class indexes, with the geometry of its image's kept pixels.
    ///
    /// # Errors
    /// As [`Self::again`]; indexes of another size than the image.
    pub fn mask_again(&mut self, indexes: &[u8], geometry: &Geometry, slot: &mut [u8]) -> Result<()> {
        check(indexes, geometry.input, 1)?;
        let limits = self.limits;
        let nearest = geometry.nearest();
        limits.check_bytes("mask", nearest.stage_bytes(1))?;
        super::indexes_through(
            &nearest,
            indexes,
            Orientation::default(),
            geometry.input,
            &limits,
            ImageOut::Slot(slot),
        )
        .map(drop)
    }
}

fn check(pixels: &[u8], size: Size, channels: u64) -> Result<()> {
    if pixels.len() as u64 == size.pixels() * channels {
        return Ok(());
    }
    Err(DecodeError::new(format!("{} bytes were kept of an image of {size}", pixels.len())))
}
