//! Pixels from pixels: convolution as Pillow's resize, sampling as torchvision's `antialias=False`, gathering.
//!
//! Pixels are RGB, 3 bytes, rows without gaps. A kernel never reaches beyond the crop: it is cut there and its weights
//! renormalised, as Pillow does after `crop(box)`. The arithmetic is in integers and the same on every processor.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
mod weights;

use self::weights::{Pixels, Rows};
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

/// What becomes of the resized pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirrored {
    pub(super) columns: bool,
    pub(super) rows: bool,
}

/// The convolution and its memory.
#[derive(Debug, Default)]
pub(super) struct Resampler {
    pixels: Pixels,
    rows: Rows,
    /// A row, and what the kernels may read behind it.
    row: Vec<u8>,
    /// What the first of two passes gives, where it runs over all rows first.
    between: Vec<u8>,
}

impl Resampler {
    /// Bytes kept between images.
    pub(super) fn scratch_bytes(&self) -> usize {
        self.pixels.memory_bytes() + self.rows.memory_bytes() + self.row.capacity() + self.between.capacity()
    }

    /// Frees them.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Resizes the `region` of `view` (all that `placed` needs) into `out`, `placed.to` pixels.
    pub(super) fn resize(
        &mut self,
        view: View<'_>,
        region: Rect,
        placed: &Placed,
        mirrored: Mirrored,
        out: &mut [u8],
    ) {
        self.resize_at(Level::here(), view, region, placed, mirrored, out);
    }

    fn resize_at(
        &mut self,
        level: Level,
        view: View<'_>,
        region: Rect,
        placed: &Placed,
        mirrored: Mirrored,
        out: &mut [u8],
    ) {
        if !placed.filter.antialias {
            point::sample(view, region, placed, out);
            mirror(out, placed.to.width, mirrored);
            return;
        }
        self.pixels.set(placed.columns, region.width, placed.to.width, placed.filter, mirrored.columns);
        self.rows.set(placed.rows, region.height, placed.to.height, placed.filter, mirrored.rows);
        let stride = view.held.width as usize * 3;
        let skipped = (region.y - view.held.y) as usize * stride + (region.x - view.held.x) as usize * 3;
        let source = Source { bytes: &view.pixels[skipped..], stride, length: region.width as usize * 3 };
        // The cubic kernel overshoots, and what leaves 0..=255 after the first pass is cut: the order of the passes shows.
        if placed.columns_first && placed.filter.interpolation == Interpolation::Bicubic {
            self.columns_first(level, source, region.height as usize, placed.to.width as usize * 3, out);
        } else {
            self.rows_first(level, source, placed.to.width as usize * 3, out);
        }
    }

    /// Row by row of the output, so that what is between the passes stays in the fastest cache.
    fn rows_first(&mut self, level: Level, source: Source<'_>, length: usize, out: &mut [u8]) {
        let Self { pixels, rows, row, .. } = self;
        scratch::grow(row, source.length.max(pixels.reach));
        for (number, line) in out.chunks_exact_mut(length).enumerate() {
            level.blend(source, rows.of(number), &mut row[..source.length]);
            level.convolve(row, pixels, line);
        }
    }

    fn columns_first(
        &mut self,
        level: Level,
        source: Source<'_>,
        height: usize,
        length: usize,
        out: &mut [u8],
    ) {
        let Self { pixels, rows, row, between } = self;
        scratch::grow(row, source.length.max(pixels.reach));
        scratch::grow(between, height * length);
        for (number, line) in between.chunks_exact_mut(length).take(height).enumerate() {
            row[..source.length].copy_from_slice(source.row(number));
            level.convolve(row, pixels, line);
        }
        let half = Source { bytes: between, stride: length, length };
        for (number, line) in out.chunks_exact_mut(length).enumerate() {
            level.blend(half, rows.of(number), line);
        }
    }
}

/// Rows of pixels in a larger picture.
#[derive(Clone, Copy, Debug)]
struct Source<'a> {
    /// From the first row's first pixel on.
    bytes: &'a [u8],
    /// From row to row.
    stride: usize,
    /// Of a row.
    length: usize,
}

impl<'a> Source<'a> {
    fn row(&self, number: usize) -> &'a [u8] {
        &self.bytes[number * self.stride..][..self.length]
    }
}

/// Which kernels this processor runs. All give the same pixels.
#[derive(Clone, Copy, Debug)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Token),
}

impl Level {
    fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = avx2::Token::new() {
            return Self::Avx2(token);
        }
        Self::Portable
    }

    /// A row as the weighted sum of rows.
    fn blend(self, source: Source<'_>, mix: weights::Mix<'_>, out: &mut [u8]) {
        match self {
            Self::Portable => portable::blend(source, mix, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(token) => token.blend(source, mix, out),
        }
    }

    /// A row as it is, or its pixels from the last to the first.
    fn copy(self, source: Source<'_>, number: usize, mirrored: bool, out: &mut [u8]) {
        match self {
            Self::Portable => portable::copy(source.row(number), mirrored, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(token) => token.copy(source, number, mirrored, out),
        }
    }

    /// Each pixel as the weighted sum of pixels of `row`, which is as long as `pixels` reach.
    fn convolve(self, row: &[u8], pixels: &Pixels, out: &mut [u8]) {
        match self {
            Self::Portable => portable::convolve(row, pixels, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(token) => token.convolve(row, pixels, out),
        }
    }
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

/// Copies a part of `view`, mirrored where asked: nothing is computed, so that it runs at the memory's speed.
pub(super) fn copy(view: View<'_>, part: Rect, mirrored: bool, out: &mut [u8]) {
    let (stride, length) = (view.held.width as usize * 3, part.width as usize * 3);
    let skipped = (part.y - view.held.y) as usize * stride + (part.x - view.held.x) as usize * 3;
    let source = Source { bytes: &view.pixels[skipped..], stride, length };
    let level = Level::here();
    for (number, line) in out.chunks_exact_mut(length).enumerate() {
        level.copy(source, number, mirrored, line);
    }
}

/// The first column, where every next one follows it in memory.
fn contiguous(columns: &[Option<usize>]) -> Option<usize> {
    let first = (*columns.first()?)?;
    columns.iter().enumerate().all(|(at, column)| *column == Some(first + at)).then_some(first)
}

fn mirror(pixels: &mut [u8], width: u32, mirrored: Mirrored) {
    if mirrored.columns {
        mirror_columns(pixels, width);
    }
    if mirrored.rows {
        mirror_rows(pixels, width);
    }
}

/// Mirrors every row of RGB pixels.
fn mirror_columns(pixels: &mut [u8], width: u32) {
    for row in pixels.chunks_exact_mut(width as usize * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Mirrors the order of rows.
fn mirror_rows(pixels: &mut [u8], width: u32) {
    let stride = width as usize * 3;
    let rows = pixels.len() / stride;
    let (upper, lower) = pixels.split_at_mut(rows / 2 * stride);
    for (above, below) in upper.chunks_exact_mut(stride).zip(lower.chunks_exact_mut(stride).rev()) {
        above.swap_with_slice(below);
    }
}

#[cfg(test)]
mod tests;
