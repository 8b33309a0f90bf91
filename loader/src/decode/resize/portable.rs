//! The kernels without SIMD of their own.

use super::Source;
use super::weights::{BITS, HALF, Mix, Pixels};

pub(super) fn blend(source: Source<'_>, mix: Mix<'_>, out: &mut [u8]) {
    // Columns at a time, so that the sums stay in registers.
    const COLUMNS: usize = 64;
    for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [HALF; COLUMNS];
        for (tap, &weight) in mix.weights.iter().enumerate() {
            let row = source.row((mix.first + tap).min(mix.last));
            for (sum, &value) in sums.iter_mut().zip(&row[block * COLUMNS..][..out.len()]) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        for (value, sum) in out.iter_mut().zip(sums) {
            *value = cut(sum);
        }
    }
}

pub(super) fn convolve(row: &[u8], pixels: &Pixels, out: &mut [u8]) {
    for ((first, weights), pixel) in pixels.each().zip(out.as_chunks_mut::<3>().0) {
        let mut sums = [HALF; 3];
        for (&weight, from) in weights.iter().zip(row[first * 3..].as_chunks::<3>().0) {
            for (sum, &value) in sums.iter_mut().zip(from) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        *pixel = sums.map(cut);
    }
}

pub(super) fn copy(row: &[u8], mirrored: bool, out: &mut [u8]) {
    out.copy_from_slice(row);
    if mirrored {
        out.as_chunks_mut::<3>().0.reverse();
    }
}

fn cut(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
