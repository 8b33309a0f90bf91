//! Half precisions by search among all of their values, for tests.

use std::sync::OnceLock;

/// Sizes of all finite values of a 16-bit float, in the order of their bits.
fn sizes(exponent_bits: u32) -> Vec<f64> {
    let digits = 15 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let finite = ((1u32 << exponent_bits) - 1) << digits;
    (0..finite)
        .map(|bits| {
            let (exponent, fraction) = ((bits >> digits) as i32, f64::from(bits & ((1 << digits) - 1)));
            let one = f64::from(1u32 << digits);
            if exponent == 0 {
                fraction / one * 2f64.powi(1 - bias)
            } else {
                (1.0 + fraction / one) * 2f64.powi(exponent - bias)
            }
        })
        .collect()
}

/// The nearest, and of two the one whose last bit is 0; the value that would follow the largest stands for infinity.
fn nearest(sizes: &[f64], value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let (size, largest) = (value.abs(), sizes[sizes.len() - 1]);
    let beyond = largest + (largest - sizes[sizes.len() - 2]);
    let at = |index: usize| sizes.get(index).copied().unwrap_or(beyond);
    let above = sizes.partition_point(|other| *other < size).min(sizes.len());
    let below = above.saturating_sub(1);
    let (up, down) = (at(above) - size, size - at(below));
    let take_up = up < down || (up == down && above % 2 == 0) || above == 0;
    sign | (if take_up { above } else { below }) as u16
}

pub(super) fn half(value: f32) -> u16 {
    static SIZES: OnceLock<Vec<f64>> = OnceLock::new();
    if value.is_nan() { 0x7e00 } else { nearest(SIZES.get_or_init(|| sizes(5)), value.into()) }
}

pub(super) fn brain(value: f32) -> u16 {
    static SIZES: OnceLock<Vec<f64>> = OnceLock::new();
    if value.is_nan() { 0x7fc0 } else { nearest(SIZES.get_or_init(|| sizes(8)), value.into()) }
}

/// The value of half precision's bits.
pub(super) fn half_value(bits: u16) -> f64 {
    value(bits, 5)
}

pub(super) fn brain_value(bits: u16) -> f64 {
    value(bits, 8)
}

fn value(bits: u16, exponent_bits: u32) -> f64 {
    static SIZES: OnceLock<[Vec<f64>; 2]> = OnceLock::new();
    let sizes = &SIZES.get_or_init(|| [sizes(5), sizes(8)])[usize::from(exponent_bits == 8)];
    let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
    let size = usize::from(bits & 0x7fff);
    sign * sizes.get(size).copied().unwrap_or(if size == sizes.len() { f64::INFINITY } else { f64::NAN })
}
