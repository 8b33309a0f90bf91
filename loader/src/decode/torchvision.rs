//! The formulas of torchvision.transforms.v2, with Python's rounding (half to even) where it rounds.

use super::orientation::{Rect, Size, Window};

/// How often a box is drawn before the middle is taken.
const TRIES: u32 = 10;

/// The box of RandomResizedCrop in a picture of `size`. Try t uses the draws 4t (area), 4t + 1 (ratio), 4t + 2 (top) and
/// 4t + 3 (left).
pub(super) fn random_resized_crop(
    size: Size,
    scale: (f64, f64),
    ratio: (f64, f64),
    draw: impl Fn(u32) -> f64,
) -> Rect {
    let between = |(low, high): (f64, f64), number| low + (high - low) * draw(number);
    let area = f64::from(size.width) * f64::from(size.height);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for attempt in 0..TRIES {
        let target = area * between(scale, 4 * attempt);
        let aspect = between(log_ratio, 4 * attempt + 1).exp();
        let width = round((target * aspect).sqrt());
        let height = round((target / aspect).sqrt());
        if (1..=size.width).contains(&width) && (1..=size.height).contains(&height) {
            let y = below(size.height - height + 1, draw(4 * attempt + 2));
            let x = below(size.width - width + 1, draw(4 * attempt + 3));
            return Rect { x, y, width, height };
        }
    }
    central_box(size, (ratio.0.min(ratio.1), ratio.0.max(ratio.1)))
}

/// The window of RandomCrop, by draws 0 (top) and 1 (left). A side that is too short is first padded at both ends by what is missing.
pub(super) fn random_crop(size: Size, to: Size, draw: impl Fn(u32) -> f64) -> Window {
    let along = |length: u32, to: u32, number| {
        let missing = i64::from(to) - i64::from(length);
        let places = u32::try_from(missing.abs() + 1).unwrap_or(u32::MAX);
        i64::from(below(places, draw(number))) - missing.max(0)
    };
    Window { y: along(size.height, to.height, 0), x: along(size.width, to.width, 1), size: to }
}

/// One of `count` numbers from 0.
fn below(count: u32, draw: f64) -> u32 {
    ((f64::from(count) * draw) as u32).min(count - 1)
}

/// The largest box in the middle whose width / height lies within `ratio`.
fn central_box(size: Size, ratio: (f64, f64)) -> Rect {
    let now = f64::from(size.width) / f64::from(size.height);
    let (width, height) = if now < ratio.0 {
        (size.width, round(f64::from(size.width) / ratio.0))
    } else if now > ratio.1 {
        (round(f64::from(size.height) * ratio.1), size.height)
    } else {
        (size.width, size.height)
    };
    // A picture one pixel wide can round to nothing; torchvision fails there.
    let (width, height) = (width.clamp(1, size.width), height.clamp(1, size.height));
    Rect { x: (size.width - width) / 2, y: (size.height - height) / 2, width, height }
}

/// The output of Resize with one number: the shorter side becomes `side`, the longer one follows (cut to an integer), and
/// where it would exceed `max_size` it becomes that and the shorter one follows.
pub(super) fn resized(size: Size, side: u32, max_size: Option<u32>) -> Size {
    let (short, long) = (size.width.min(size.height), size.width.max(size.height));
    let follow =
        |base: u32, by: u32, of: u32| (u64::from(base) * u64::from(by) / u64::from(of.max(1))).max(1);
    let mut new_short = u64::from(side);
    let mut new_long = follow(side, long, short);
    if let Some(max_size) = max_size
        && new_long > u64::from(max_size)
    {
        new_short = (u64::from(max_size) * new_short / new_long).max(1);
        new_long = u64::from(max_size);
    }
    let fit = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let (new_short, new_long) = (fit(new_short), fit(new_long));
    if size.width <= size.height {
        Size { width: new_short, height: new_long }
    } else {
        Size { width: new_long, height: new_short }
    }
}

/// The window of CenterCrop: padded first where the picture is smaller, then cut.
pub(super) fn center_crop(size: Size, to: Size) -> Window {
    Window { x: center(size.width, to.width), y: center(size.height, to.height), size: to }
}

fn center(length: u32, to: u32) -> i64 {
    if to > length {
        // Half of the padding, cut to an integer, comes before the picture.
        -i64::from((to - length) / 2)
    } else {
        (f64::from(length - to) / 2.0).round_ties_even() as i64
    }
}

fn round(value: f64) -> u32 {
    value.round_ties_even() as u32
}
