//! `antialias=False`: values between the four or sixteen nearest pixels, however much the picture shrinks.
//!
//! As torchvision on uint8 tensors: positions (i + 0.5) · scale − 0.5, pixels beyond an edge are the edge's, and the cubic
//! kernel there has a = −0.75 (with antialiasing it has −0.5, as Pillow).

use super::orientation::Rect;
use super::resize::{Placed, Span, View};
use crate::field::Interpolation;

const CUBIC_A: f32 = -0.75;

/// The pixels that one output pixel mixes, in one direction, and how much of each.
struct Taps {
    at: [usize; 4],
    weights: [f32; 4],
}

/// Samples the `region` of `view` into `out`.
pub(super) fn sample(view: View<'_>, region: Rect, placed: &Placed, out: &mut [u8]) {
    let cubic = placed.filter.interpolation == Interpolation::Bicubic;
    let count = if cubic { 4 } else { 2 };
    let columns = taps(placed.columns, placed.to.width, region.width, region.x - view.held.x, cubic);
    let rows = taps(placed.rows, placed.to.height, region.height, region.y - view.held.y, cubic);
    let stride = view.held.width as usize * 3;
    for (row, line) in rows.iter().zip(out.chunks_exact_mut(placed.to.width as usize * 3)) {
        for (column, pixel) in columns.iter().zip(line.as_chunks_mut::<3>().0) {
            let mut sums = [0.0f32; 3];
            for (y, weight_y) in row.at[..count].iter().zip(row.weights) {
                for (x, weight_x) in column.at[..count].iter().zip(column.weights) {
                    let from = &view.pixels[y * stride + x * 3..][..3];
                    for (sum, &value) in sums.iter_mut().zip(from) {
                        *sum += f32::from(value) * weight_x * weight_y;
                    }
                }
            }
            *pixel = sums.map(|sum| sum.round_ties_even().clamp(0.0, 255.0) as u8);
        }
    }
}

/// `available` pixels of the region begin at `offset` of what is held. A kernel that is not cut by the crop's edge finds
/// all its pixels in the region.
fn taps(span: Span, count: u32, available: u32, offset: u32, cubic: bool) -> Vec<Taps> {
    let step = span.length / f64::from(count);
    let last = i64::from(available) - 1;
    (0..count)
        .map(|number| {
            let mut center = span.start + (f64::from(number) + 0.5) * step - 0.5;
            if !cubic {
                center = center.max(0.0);
            }
            let part = (center - center.floor()) as f32;
            let first = center.floor() as i64 - i64::from(cubic);
            let at = [0, 1, 2, 3].map(|tap| (first + tap).clamp(0, last) as usize + offset as usize);
            let weights = if cubic { cubic_weights(part) } else { [1.0 - part, part, 0.0, 0.0] };
            Taps { at, weights }
        })
        .collect()
}

fn cubic_weights(part: f32) -> [f32; 4] {
    let near = |d: f32| ((CUBIC_A + 2.0) * d - (CUBIC_A + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((CUBIC_A * d - 5.0 * CUBIC_A) * d + 8.0 * CUBIC_A) * d - 4.0 * CUBIC_A;
    [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]
}
