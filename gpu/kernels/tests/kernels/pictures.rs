//! What pictures' tests have in common: pixels, and the arithmetic of [`Output`] by hand.

use forebay_kernels::{Channels, Layout, Output, PixelType, normalising};
use proptest::prelude::*;

use crate::memory::Memory;
use crate::number::{brain, half};

pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Extremes too: overshoot is cut there.
        match state >> 61 {
            0 => 0,
            1 => 255,
            _ => (state >> 40) as u8,
        }
    };
    (0..length).map(|_| next()).collect()
}

/// A kind of output, of which only address and size are left to say.
pub(super) fn outputs() -> impl Strategy<Value = Output> {
    let elements = [PixelType::U8, PixelType::F16, PixelType::BF16, PixelType::F32];
    let scales = prop_oneof![
        Just((1.0, 0.0)),
        (0.0f64..1.0, 0.01f64..2.0).prop_map(|(mean, std)| normalising(mean, std)),
        (-300.0f32..300.0, -1e5f32..1e5),
        Just((f32::NAN, 0.0)),
        Just((f32::INFINITY, 1.0)),
    ];
    (
        prop::sample::select(vec![Channels::One, Channels::Three]),
        prop::sample::select(elements.to_vec()),
        prop::sample::select(vec![Layout::Nhwc, Layout::Nchw]),
        prop::array::uniform3(scales),
    )
        .prop_map(|(channels, element, layout, scales)| {
            let mut out = Output::new(0, 0, 0, channels);
            (out.element, out.layout) = (element, layout);
            (out.scale, out.bias) = (scales.map(|scale| scale.0), scales.map(|scale| scale.1));
            out
        })
}

/// `out` with a place for so many pictures of this size, `past` numbers behind an aligned address.
pub(super) fn placed(memory: &mut Memory, out: Output, size: (u32, u32), images: u64, past: u64) -> Output {
    let mut out = Output { height: size.0, width: size.1, ..out };
    out.pixels = memory.take(out.bytes(images) as usize, (past * out.element.size()) as usize);
    out
}

/// What [`Output`] promises of these pixels, \[images, height, width, channels\].
pub(super) fn finished(out: &Output, images: &[u8]) -> Vec<u8> {
    let (channels, area) = (out.channels as usize, out.area() as usize);
    let number = |image: usize, pixel: usize, channel: usize| -> Vec<u8> {
        let x = f32::from(images[(image * area + pixel) * channels + channel]);
        let scaled = x * out.scale[channel];
        let y = scaled + out.bias[channel];
        match out.element {
            // A NaN is 0.
            PixelType::U8 => vec![y.round_ties_even() as u8],
            PixelType::F16 => half(y).to_ne_bytes().to_vec(),
            PixelType::BF16 => brain(y).to_ne_bytes().to_vec(),
            PixelType::F32 => y.to_ne_bytes().to_vec(),
        }
    };
    let mut all = Vec::new();
    for image in 0..images.len().checked_div(area * channels).unwrap_or(0) {
        match out.layout {
            Layout::Nhwc => (0..area).for_each(|pixel| {
                (0..channels).for_each(|channel| all.extend(number(image, pixel, channel)));
            }),
            Layout::Nchw => (0..channels).for_each(|channel| {
                (0..area).for_each(|pixel| all.extend(number(image, pixel, channel)));
            }),
        }
    }
    all
}
