//! A stage as it runs on stored rows and columns: the upright plan turned to how the pixels lie in memory.

use super::geometry::{Filter, Stage};
use super::orientation::{Orientation, Rect, Size, Window};
use super::resize;
use crate::field::Interpolation;

/// How a stage's pixels come about.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Every output pixel is one input pixel, or zero.
    Gather(Gather),
    /// Output pixels are weighted sums.
    Resize(Resize),
}

/// Where the pixels of each output column and row lie, in stored coordinates; `None`: zero. With `transpose` an output
/// column is a stored row.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    pub(super) transpose: bool,
    pub(super) columns: Vec<Option<u32>>,
    pub(super) rows: Vec<Option<u32>>,
}

/// Resize `crop` to `scaled`, keep `kept` of that, put it into `window` and turn the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resize {
    pub(super) crop: Rect,
    pub(super) scaled: Size,
    pub(super) filter: Filter,
    pub(super) window: Window,
    /// The part of `window` inside `scaled`; `None` where only padding is left.
    pub(super) kept: Option<Rect>,
    /// From the stored window to the upright output.
    pub(super) turn: Orientation,
    /// Whether stored columns are combined before stored rows.
    pub(super) columns_first: bool,
}

impl Work {
    /// The work of `stage` on an image that is stored in this orientation.
    pub(super) fn new(stage: &Stage, orientation: Orientation) -> Self {
        match stage.filter {
            Some(filter) if filter.interpolation != Interpolation::Nearest => {
                Self::Resize(Resize::new(stage, filter, orientation))
            }
            _ => Self::Gather(Gather::new(stage, orientation)),
        }
    }

    /// What it needs of an image of this stored size; `None`: nothing.
    pub(super) fn region(&self) -> Option<Rect> {
        match self {
            Self::Gather(gather) => gather.region(),
            Self::Resize(resize) => Some(resize.region()?.0),
        }
    }
}

impl Gather {
    fn new(stage: &Stage, orientation: Orientation) -> Self {
        let nearest = stage.filter.is_some();
        let axis =
            Axis { start: stage.window.x, scaled: stage.scaled.width, crop: stage.crop.width, nearest };
        let mut columns = axis.sources(stage.output().width);
        if stage.mirror {
            columns.reverse();
        }
        for column in columns.iter_mut().flatten() {
            if stage.mirror_first {
                *column = stage.crop.width - 1 - *column;
            }
            *column += stage.crop.x;
            if orientation.flip_x {
                *column = stage.input.width - 1 - *column;
            }
        }
        let axis =
            Axis { start: stage.window.y, scaled: stage.scaled.height, crop: stage.crop.height, nearest };
        let mut rows = axis.sources(stage.output().height);
        for row in rows.iter_mut().flatten() {
            *row += stage.crop.y;
            if orientation.flip_y {
                *row = stage.input.height - 1 - *row;
            }
        }
        Self { transpose: orientation.transpose, columns, rows }
    }

    /// Only turns and pads: `window` of an image of `size`, stored in this orientation.
    pub(super) fn turning(resize: &Resize) -> Self {
        let stored = resize.window;
        let kept = resize.kept.unwrap_or(Rect { x: 0, y: 0, width: 0, height: 0 });
        let along = |start: i64, length: u32, from: u32, count: u32| -> Vec<Option<u32>> {
            (0..i64::from(length))
                .map(|at| u32::try_from(start + at - i64::from(from)).ok().filter(|&inner| inner < count))
                .collect()
        };
        let mut columns = along(stored.x, stored.size.width, kept.x, kept.width);
        let mut rows = along(stored.y, stored.size.height, kept.y, kept.height);
        if resize.turn.transpose {
            std::mem::swap(&mut columns, &mut rows);
        }
        if resize.turn.flip_x {
            columns.reverse();
        }
        if resize.turn.flip_y {
            rows.reverse();
        }
        Self { transpose: resize.turn.transpose, columns, rows }
    }

    fn region(&self) -> Option<Rect> {
        let span = |axis: &[Option<u32>]| {
            let first = axis.iter().flatten().min()?;
            let last = axis.iter().flatten().max()?;
            Some((*first, last - first + 1))
        };
        let (mut columns, mut rows) = (span(&self.columns)?, span(&self.rows)?);
        if self.transpose {
            std::mem::swap(&mut columns, &mut rows);
        }
        Some(Rect { x: columns.0, y: rows.0, width: columns.1, height: rows.1 })
    }
}

/// One direction of a stage that takes single pixels.
struct Axis {
    start: i64,
    scaled: u32,
    crop: u32,
    nearest: bool,
}

impl Axis {
    /// The crop's pixel behind each output pixel.
    fn sources(&self, length: u32) -> Vec<Option<u32>> {
        let picks = if self.nearest { nearest(self.crop, self.scaled) } else { (0..self.crop).collect() };
        (0..i64::from(length))
            .map(|at| usize::try_from(at + self.start).ok().and_then(|at| picks.get(at).copied()))
            .collect()
    }
}

/// Pillow's NEAREST: steps are added up, not multiplied, and the sum decides about ties.
fn nearest(from: u32, to: u32) -> Vec<u32> {
    let step = f64::from(from) / f64::from(to);
    let mut at = step * 0.5;
    (0..to)
        .map(|_| {
            let pick = (at as u32).min(from - 1);
            at += step;
            pick
        })
        .collect()
}

impl Resize {
    fn new(stage: &Stage, filter: Filter, orientation: Orientation) -> Self {
        let Cut { crop, scaled, window, turn, columns_first } = Cut::new(stage, orientation);
        Self { crop, scaled, filter, window, kept: overlap(window, scaled), turn, columns_first }
    }

    /// What it needs of the stored image, and the kernel's place in that.
    pub(super) fn region(&self) -> Option<(Rect, resize::Placed)> {
        self.region_scaled(1)
    }

    /// The same of the image at 1/`denominator`.
    pub(super) fn region_scaled(&self, denominator: u32) -> Option<(Rect, resize::Placed)> {
        let kept = self.kept?;
        let along = |crop: u32, length: u32, scaled: u32, kept: u32, count: u32| {
            resize::place(resize::Along {
                crop: (f64::from(crop) / f64::from(denominator), f64::from(length) / f64::from(denominator)),
                scaled,
                kept: (kept, count),
                filter: self.filter,
            })
        };
        let (x, width, columns) = along(self.crop.x, self.crop.width, self.scaled.width, kept.x, kept.width);
        let (y, height, rows) = along(self.crop.y, self.crop.height, self.scaled.height, kept.y, kept.height);
        Some((
            Rect { x, y, width, height },
            resize::Placed {
                columns,
                rows,
                to: kept.size(),
                filter: self.filter,
                columns_first: self.columns_first,
            },
        ))
    }

    /// The largest 1/n at which the crop still has at least as many pixels as the output: anything smaller would be
    /// enlarged again. Only for kernels that average what they cover.
    pub(super) fn denominator(&self) -> u32 {
        let fits = |n: &u32| {
            self.crop.width / n >= self.scaled.width.max(1)
                && self.crop.height / n >= self.scaled.height.max(1)
        };
        if !self.filter.antialias {
            return 1;
        }
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Whether the kept pixels are the output, but for mirrorings.
    pub(super) fn is_direct(&self) -> bool {
        !self.turn.transpose && self.kept.is_some_and(|kept| kept.size() == self.window.size)
    }
}

/// A stage on an upright picture in the words of the picture as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What is taken of it.
    pub crop: Rect,
    /// What that is resized to.
    pub scaled: Size,
    /// What is kept of the resized crop; zeros where it reaches beyond.
    pub window: Window,
    /// From that to the upright output.
    pub turn: Orientation,
    /// Whether a resize combines stored columns before stored rows.
    pub columns_first: bool,
}

impl Cut {
    /// The cut of a picture that is stored in this orientation.
    pub fn new(stage: &Stage, orientation: Orientation) -> Self {
        // Mirroring before a symmetric kernel equals mirroring after it, of the mirrored window.
        let mut window = stage.window;
        if stage.mirror_first {
            window.x = i64::from(stage.scaled.width) - window.x - i64::from(window.size.width);
        }
        let crop = Window { x: stage.crop.x.into(), y: stage.crop.y.into(), size: stage.crop.size() };
        let crop = orientation.to_stored(crop, stage.input);
        Self {
            // Inside the upright picture, hence inside the stored one.
            crop: Rect {
                x: crop.x as u32,
                y: crop.y as u32,
                width: crop.size.width,
                height: crop.size.height,
            },
            scaled: orientation.size(stage.scaled),
            window: orientation.to_stored(window, stage.scaled),
            turn: orientation.mirrored(stage.mirror_first ^ stage.mirror),
            columns_first: columns_first(stage.crop.size(), stage.scaled) ^ orientation.transpose,
        }
    }
}

/// The order of passes in Pillow 13, found by comparing its results with those of two separate passes: columns, unless many
/// more rows fall away than columns do.
fn columns_first(from: Size, to: Size) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (columns, rows) = (lost(from.width, to.width), lost(from.height, to.height));
    rows <= 0 || rows <= 2 * columns
}

fn overlap(window: Window, size: Size) -> Option<Rect> {
    let along = |start: i64, length: u32, whole: u32| {
        let first = start.max(0);
        let end = (start + i64::from(length)).min(i64::from(whole));
        (end > first).then_some((first as u32, (end - first) as u32))
    };
    let (x, width) = along(window.x, window.size.width, size.width)?;
    let (y, height) = along(window.y, window.size.height, size.height)?;
    Some(Rect { x, y, width, height })
}
