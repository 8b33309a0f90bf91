//! Pixels from pixels: SIMD convolution as Pillow's resize, sampling as torchvision's `antialias=False`, gathering.
//!
//! Pixels are RGB, 3 bytes, rows without gaps. A kernel never reaches beyond the crop: it is cut there and its weights
//! renormalised, as Pillow does after `crop(box)`.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::error::{DecodeError, Result};
use super::geometry::Filter;
use super::orientation::{Rect, Size};
use super::point;
use super::scratch;
use super::stored::Gather;
use crate::field::Interpolation;

/// Pixels of a part of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// `held.width` × `held.height` pixels of `CHANNELS` bytes.
    pub(super) pixels: &'a [u8],
    /// Which part of the image they are.
    pub(super) held: Rect,
}

/// One direction of a resize: what is kept of a crop that is resized to `scaled` pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Along {
    /// Start and length in source pixels; fractions where the source was scaled down while decoding.
    pub(super) crop: (f64, f64),
    pub(super) scaled: u32,
    /// Start and count in resized pixels.
    pub(super) kept: (u32, u32),
    pub(super) filter: Filter,
}

/// Where the kept pixels lie, relative to the first pixel of the region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Start, in source pixels.
    pub(super) start: f64,
    /// Length, in source pixels.
    pub(super) length: f64,
}

/// A resize whose source is exactly the region it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) columns: Span,
    pub(super) rows: Span,
    pub(super) to: Size,
    pub(super) filter: Filter,
    /// Which pass Pillow would do first.
    pub(super) columns_first: bool,
}

/// First source pixel and count that the kept pixels depend on, inside the crop; and their place there.
pub(super) fn place(along: Along) -> (u32, u32, Span) {
    let (crop, length) = along.crop;
    let step = length / f64::from(along.scaled);
    let whole = along.kept == (0, along.scaled);
    let start = if whole { crop } else { crop + f64::from(along.kept.0) * step };
    let kept = if whole { length } else { f64::from(along.kept.1) * step };
    // One more than the kernel reaches: the region's edge must not cut it where the crop's edge does not.
    let reach = support(along.filter) * if along.filter.antialias { step.max(1.0) } else { 1.0 } + 1.0;
    let first = (start - reach).max(crop).floor();
    let end = (start + kept + reach).min(crop + length).ceil();
    (first as u32, (end - first) as u32, Span { start: start - first, length: kept })
}

fn support(filter: Filter) -> f64 {
    match filter.interpolation {
        Interpolation::Nearest => 0.5,
        Interpolation::Bilinear => 1.0,
        Interpolation::Bicubic => 2.0,
    }
}

/// The convolution and its memory.
#[derive(Debug, Default)]
pub(super) struct Resampler {
    resizer: Resizer,
    /// What the first of two separate passes gives.
    between: Vec<u8>,
}

impl Resampler {
    /// Bytes kept between images.
    pub(super) fn scratch_bytes(&self) -> usize {
        self.resizer.size_of_internal_buffers() + self.between.capacity()
    }

    /// Frees them.
    pub(super) fn forget(&mut self) {
        self.resizer.reset_internal_buffers();
        self.between = Vec::new();
    }

    /// Resizes the `region` of `view` (all that `placed` needs) into `out`, `placed.to` pixels.
    pub(super) fn resize(
        &mut self,
        view: View<'_>,
        region: Rect,
        placed: &Placed,
        out: &mut [u8],
    ) -> Result<()> {
        if !placed.filter.antialias {
            point::sample(view, region, placed, out);
            return Ok(());
        }
        self.convolve(view, region, placed, out)
            .map_err(|error| DecodeError::new(format!("the image can't be resized: {error}")))
    }

    fn convolve(&mut self, view: View<'_>, region: Rect, placed: &Placed, out: &mut [u8]) -> Outcome {
        let kernel = match placed.filter.interpolation {
            Interpolation::Bicubic => FilterType::CatmullRom,
            Interpolation::Bilinear | Interpolation::Nearest => FilterType::Bilinear,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(kernel)).use_alpha(false);
        let (left, width) = clamp(placed.columns, region.width);
        let (top, height) = clamp(placed.rows, region.height);
        let source = TypedImageRef::<U8x3>::from_buffer(view.held.width, view.held.height, view.pixels)?;
        let (x, y) = (region.x - view.held.x, region.y - view.held.y);
        let source = TypedCroppedImage::new(source, x, y, region.width, region.height)?;
        let mut target = TypedImage::<U8x3>::from_buffer(placed.to.width, placed.to.height, out)?;
        if !placed.columns_first || kernel == FilterType::Bilinear {
            self.resizer.resize_typed(&source, &mut target, &options.crop(left, top, width, height))?;
            return Ok(());
        }
        // The cubic kernel overshoots, and what leaves 0..=255 after the first pass is cut: the order of the passes shows.
        // fast_image_resize takes rows first, Pillow columns.
        let length = placed.to.width as usize * region.height as usize * 3;
        scratch::grow(&mut self.between, length);
        let between = &mut self.between[..length];
        let mut half = TypedImage::<U8x3>::from_buffer(placed.to.width, region.height, between)?;
        let columns = options.crop(left, 0.0, width, f64::from(region.height));
        self.resizer.resize_typed(&source, &mut half, &columns)?;
        let rows = options.crop(0.0, top, f64::from(placed.to.width), height);
        self.resizer.resize_typed(&half, &mut target, &rows)?;
        Ok(())
    }
}

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// Rounding must not carry the box over the region's edge, where it would be refused.
fn clamp(span: Span, available: u32) -> (f64, f64) {
    let start = span.start.clamp(0.0, f64::from(available));
    (start, span.length.min(f64::from(available) - start))
}

/// Writes the pixels of `CHANNELS` bytes that `gather` names, upright, into `out`.
pub(super) fn gather<const CHANNELS: usize>(view: View<'_>, gather: &Gather, out: &mut [u8]) {
    let width = view.held.width as usize;
    let (step_x, step_y) = if gather.transpose { (width, 1) } else { (1, width) };
    let (first_x, first_y) =
        if gather.transpose { (view.held.y, view.held.x) } else { (view.held.x, view.held.y) };
    let columns: Vec<Option<usize>> =
        gather.columns.iter().map(|column| column.map(|at| (at - first_x) as usize * step_x)).collect();
    let run = contiguous(&columns);
    for (row, line) in gather.rows.iter().zip(out.chunks_exact_mut(columns.len() * CHANNELS)) {
        let Some(row) = row else {
            line.fill(0);
            continue;
        };
        let start = (row - first_y) as usize * step_y;
        if let Some(first) = run {
            let from = (start + first) * CHANNELS;
            line.copy_from_slice(&view.pixels[from..from + line.len()]);
            continue;
        }
        for (column, pixel) in columns.iter().zip(line.chunks_exact_mut(CHANNELS)) {
            match column {
                Some(column) => {
                    let from = (start + column) * CHANNELS;
                    pixel.copy_from_slice(&view.pixels[from..from + CHANNELS]);
                }
                None => pixel.fill(0),
            }
        }
    }
}

/// The first column, where every next one follows it in memory.
fn contiguous(columns: &[Option<usize>]) -> Option<usize> {
    let first = (*columns.first()?)?;
    columns.iter().enumerate().all(|(at, column)| *column == Some(first + at)).then_some(first)
}

/// Mirrors every row of RGB pixels.
pub(super) fn mirror_columns(pixels: &mut [u8], width: u32) {
    for row in pixels.chunks_exact_mut(width as usize * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Mirrors the order of rows.
pub(super) fn mirror_rows(pixels: &mut [u8], width: u32) {
    let stride = width as usize * 3;
    let rows = pixels.len() / stride;
    let (upper, lower) = pixels.split_at_mut(rows / 2 * stride);
    for (above, below) in upper.chunks_exact_mut(stride).zip(lower.chunks_exact_mut(stride).rev()) {
        above.swap_with_slice(below);
    }
}
