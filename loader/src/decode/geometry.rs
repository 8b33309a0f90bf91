//! Transforms and a header's size → which pixels are needed and what becomes of them. Pure: no pixels here.
//!
//! Promises: the boxes and sizes of torchvision.transforms.v2, given the same draws; few stages, so that most lists of
//! transforms are one crop and one resize of the stored picture. A transform joins the stage before it where the result
//! stays the same; otherwise it begins another, which works on that one's pixels.
//!
//! Sizes are of the upright picture, after EXIF. Boxes know nothing of how it is stored.

use super::error::{DecodeError, Result};
use super::limits::Limits;
use super::orientation::{Rect, Size, Window};
use super::torchvision as tv;
use crate::field::{Interpolation, ResizeTo, Transform};

/// Random numbers that depend on nothing but what they are asked for.
pub trait Draws {
    /// Number `draw` of operation `operation`, in [0, 1). An operation is a transform's place in its list.
    fn uniform(&self, operation: u32, draw: u32) -> f64;
}

impl<F: Fn(u32, u32) -> f64> Draws for F {
    fn uniform(&self, operation: u32, draw: u32) -> f64 {
        self(operation, draw)
    }
}

/// How pixels are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The kernel.
    pub interpolation: Interpolation,
    /// Whether it widens as the picture shrinks.
    pub antialias: bool,
}

/// crop → (mirror) → resize → window → (mirror).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it works on: the upright picture, or the output of the stage before.
    pub input: Size,
    /// What is taken of it.
    pub crop: Rect,
    /// Whether the crop is mirrored before it is resized.
    pub mirror_first: bool,
    /// What the crop is resized to; its own size without a filter.
    pub scaled: Size,
    /// How it is resized; `None`: not at all.
    pub filter: Option<Filter>,
    /// What is kept of the resized crop; zeros where it reaches beyond.
    pub window: Window,
    /// Whether the output is mirrored.
    pub mirror: bool,
}

impl Stage {
    fn new(input: Size) -> Self {
        Self {
            input,
            crop: Rect::all(input),
            mirror_first: false,
            scaled: input,
            filter: None,
            window: Window::all(input),
            mirror: false,
        }
    }

    /// What it gives.
    pub fn output(&self) -> Size {
        self.window.size
    }

    /// A window in the coordinates of this stage's output, in those of the resized crop.
    fn unwind(&self, x: i64, y: i64, size: Size) -> Window {
        let x = if self.mirror { i64::from(self.window.size.width) - x - i64::from(size.width) } else { x };
        Window { x: self.window.x + x, y: self.window.y + y, size }
    }

    /// The box of the input behind a box of the output, while nothing has been resized or padded.
    fn input_box(&self, rect: Rect) -> Option<Rect> {
        if self.filter.is_some() {
            return None;
        }
        let window = self.unwind(i64::from(rect.x), i64::from(rect.y), rect.size());
        let inner = window.as_rect_in(self.scaled)?;
        Some(Rect { x: self.crop.x + inner.x, y: self.crop.y + inner.y, ..inner })
    }

    /// The box of the input that is the output, but for its mirroring, where nothing is resized or padded.
    pub(super) fn plain_box(&self) -> Option<Rect> {
        self.input_box(Rect::all(self.output()))
    }

    /// Whether every pixel of the resized crop is kept: then whatever lies beyond is zero in any wider window too.
    fn keeps_all(&self) -> bool {
        let reaches =
            |start: i64, length: u32, whole: u32| start <= 0 && start + i64::from(length) >= i64::from(whole);
        reaches(self.window.x, self.window.size.width, self.scaled.width)
            && reaches(self.window.y, self.window.size.height, self.scaled.height)
    }
}

/// What becomes of one picture. A mask of the same size takes it over, with [`Interpolation::Nearest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The upright picture's size.
    pub input: Size,
    /// At least one, each working on the output of the one before.
    pub stages: Vec<Stage>,
}

impl Geometry {
    /// The output's size.
    pub fn output(&self) -> Size {
        self.last().output()
    }

    fn last(&self) -> &Stage {
        &self.stages[self.stages.len() - 1]
    }

    fn last_mut(&mut self) -> &mut Stage {
        let last = self.stages.len() - 1;
        &mut self.stages[last]
    }

    fn crop(&mut self, rect: Rect) {
        if rect == Rect::all(self.output()) {
            return;
        }
        if self.last().input_box(rect).is_none() {
            self.stages.push(Stage::new(self.output()));
        }
        let stage = self.last_mut();
        if let Some(crop) = stage.input_box(rect) {
            stage.crop = crop;
            stage.scaled = rect.size();
            stage.window = Window::all(rect.size());
        }
    }

    fn resize(&mut self, size: Size, filter: Filter) {
        if size == self.output() {
            return;
        }
        let all = Rect::all(self.output());
        if self.last().input_box(all).is_none() {
            self.stages.push(Stage::new(self.output()));
        }
        let stage = self.last_mut();
        if let Some(crop) = stage.input_box(all) {
            stage.crop = crop;
            stage.mirror_first = std::mem::take(&mut stage.mirror);
            stage.scaled = size;
            stage.filter = Some(filter);
            stage.window = Window::all(size);
        }
    }

    fn window(&mut self, window: Window) {
        let inside = window.as_rect_in(self.output()).is_some();
        if !inside && !self.last().keeps_all() {
            self.stages.push(Stage::new(self.output()));
        }
        let stage = self.last_mut();
        stage.window = stage.unwind(window.x, window.y, window.size);
    }

    /// Bytes that its stages hold at once at most, beside the first one's input and the last one's output: what earlier stages give, and
    /// what a resize keeps between its two passes and before it is turned or padded.
    pub(super) fn stage_bytes(&self, channels: u64) -> u64 {
        let product = |width: u32, height: u32| u64::from(width) * u64::from(height);
        let one = |(number, stage): (usize, &Stage)| {
            let kept = Size {
                width: stage.scaled.width.min(stage.window.size.width),
                height: stage.scaled.height.min(stage.window.size.height),
            };
            let between = product(kept.width, stage.crop.height).max(product(stage.crop.width, kept.height));
            let resized = if stage.filter.is_some() { between + kept.pixels() } else { 0 };
            let output = if number + 1 < self.stages.len() { stage.output().pixels() } else { 0 };
            resized.saturating_add(output)
        };
        self.stages.iter().enumerate().map(one).fold(0u64, u64::saturating_add).saturating_mul(channels)
    }

    /// With every filter replaced by the nearest pixel: for class indexes, which must not be mixed.
    pub fn nearest(&self) -> Self {
        let mut geometry = self.clone();
        for stage in &mut geometry.stages {
            stage.filter =
                stage.filter.map(|_| Filter { interpolation: Interpolation::Nearest, antialias: false });
        }
        geometry
    }
}

/// (height, width) of the output, where the transforms fix it whatever the picture.
pub fn fixed_output(transforms: &[Transform]) -> Option<(u32, u32)> {
    transforms.iter().rev().find_map(|transform| match transform {
        Transform::RandomResizedCrop { size, .. }
        | Transform::RandomCrop { size, .. }
        | Transform::CenterCrop { size } => Some(Some(*size)),
        Transform::Resize { size: ResizeTo::Exactly(height, width), .. } => Some(Some((*height, *width))),
        Transform::Resize { size: ResizeTo::Shorter { .. } | ResizeTo::Within(_), .. } => Some(None),
        Transform::RandomHorizontalFlip { .. } => None,
    })?
}

/// What becomes of a picture of this upright size.
///
/// # Errors
/// A transform that makes an output without area or larger than the limits.
pub fn resolve(
    transforms: &[Transform],
    input: Size,
    draws: &dyn Draws,
    limits: &Limits,
) -> Result<Geometry> {
    let mut geometry = Geometry { input, stages: vec![Stage::new(input)] };
    for (operation, transform) in transforms.iter().enumerate() {
        let draw = |number: u32| draws.uniform(operation as u32, number);
        let now = geometry.output();
        match *transform {
            Transform::RandomResizedCrop { size, scale, ratio, interpolation, antialias } => {
                let rect = tv::random_resized_crop(now, scale, ratio, draw);
                let size = checked(size, limits)?;
                geometry.crop(rect);
                geometry.resize(size, Filter { interpolation, antialias });
            }
            Transform::Resize { size, interpolation, antialias } => {
                let size = match size {
                    ResizeTo::Exactly(height, width) => Size { width, height },
                    ResizeTo::Shorter { side, max_size } => tv::resized(now, side, max_size),
                    ResizeTo::Within(side) => within(now, side),
                };
                let size = checked((size.height, size.width), limits)?;
                geometry.resize(size, Filter { interpolation, antialias });
            }
            Transform::RandomCrop { size, pad_if_needed } => {
                let size = checked(size, limits)?;
                if !pad_if_needed && (size.width > now.width || size.height > now.height) {
                    return Err(DecodeError::new(format!(
                        "RandomCrop takes {size} of an image of {now}: resize it first, or use pad_if_needed=True"
                    )));
                }
                geometry.window(tv::random_crop(now, size, draw));
            }
            Transform::CenterCrop { size } => {
                let size = checked(size, limits)?;
                geometry.window(tv::center_crop(now, size));
            }
            Transform::RandomHorizontalFlip { p } => {
                if draw(0) < p {
                    geometry.last_mut().mirror ^= true;
                }
            }
        }
    }
    Ok(geometry)
}

/// The size whose longer side is at most `side`, as FFCV's max_resolution: the shorter one follows, cut to an integer.
fn within(size: Size, side: u32) -> Size {
    let longer = size.width.max(size.height);
    if longer <= side {
        return size;
    }
    let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longer)).max(1) as u32;
    Size { width: scaled(size.width), height: scaled(size.height) }
}

fn checked((height, width): (u32, u32), limits: &Limits) -> Result<Size> {
    let size = Size { width, height };
    if size.is_empty() {
        return Err(DecodeError::new(format!(
            "a transform makes an image of {size} pixels; sizes must be at least 1"
        )));
    }
    limits.check_bytes("a transform's output", size.pixels().saturating_mul(3))?;
    Ok(size)
}

#[cfg(test)]
mod tests;
