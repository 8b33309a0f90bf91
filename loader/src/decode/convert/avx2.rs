//! Eight pixels at a time: their 24 levels become float32, are multiplied and added to in two roundings, and rounded to the type.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::Converter;
use crate::field::PixelType;

/// Pixels of a step.
const PIXELS: usize = 8;
/// Where the last 16 of its levels begin.
const SECOND_HALF: usize = PIXELS * 3 - 16;

// What a step writes; a const parameter can't be a `PixelType`.
const UINT8: u8 = 0;
const FLOAT16: u8 = 1;
const BFLOAT16: u8 = 2;
const FLOAT32: u8 = 3;

/// Says that the processor has AVX2, and the conversion to float16 that nearly every such one has (F16C).
#[derive(Clone, Copy, Debug)]
pub(super) struct Token(());

impl Token {
    pub(super) fn new() -> Option<Self> {
        let all = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    /// Converts as many pixels as there are in whole steps, and returns their number.
    pub(super) fn convert(self, converter: &Converter, pixels: &[[u8; 3]], out: &mut [u8]) -> usize {
        // SAFETY: a token exists where the processor has both.
        unsafe {
            match (converter.kind, converter.planar) {
                (PixelType::UInt8, false) => return 0,
                (PixelType::UInt8, true) => planar::<UINT8>(converter, pixels, out),
                (PixelType::Float16, false) => interleaved::<FLOAT16>(converter, pixels, out),
                (PixelType::Float16, true) => planar::<FLOAT16>(converter, pixels, out),
                (PixelType::BFloat16, false) => interleaved::<BFLOAT16>(converter, pixels, out),
                (PixelType::BFloat16, true) => planar::<BFLOAT16>(converter, pixels, out),
                (PixelType::Float32, false) => interleaved::<FLOAT32>(converter, pixels, out),
                (PixelType::Float32, true) => planar::<FLOAT32>(converter, pixels, out),
            }
        }
        pixels.len() / PIXELS * PIXELS
    }
}

const fn bytes_of(kind: u8) -> usize {
    match kind {
        UINT8 => 1,
        FLOAT16 | BFLOAT16 => 2,
        _ => 4,
    }
}

/// Channels stay together: three vectors, whose channels begin with red, blue and green.
#[target_feature(enable = "avx2,f16c")]
fn interleaved<const KIND: u8>(converter: &Converter, pixels: &[[u8; 3]], out: &mut [u8]) {
    let bytes = bytes_of(KIND);
    assert_eq!(pixels.len() * 3 * bytes, out.len());
    let mut affine = [(_mm256_setzero_ps(), _mm256_setzero_ps()); 3];
    for (vector, (scale, bias)) in affine.iter_mut().enumerate() {
        (*scale, *bias) = (turning(converter.affine.scale, vector), turning(converter.affine.bias, vector));
    }
    let to = out.as_mut_ptr();
    for (step, pixels) in pixels.as_chunks::<PIXELS>().0.iter().enumerate() {
        for (vector, &affine) in affine.iter().enumerate() {
            let at = vector * PIXELS;
            // SAFETY: 8 of the step's 24 levels, and the place of their numbers: out has one for each level, as found above.
            unsafe {
                let levels = _mm_loadl_epi64(pixels.as_ptr().cast::<u8>().add(at).cast());
                let levels = _mm256_cvtepu8_epi32(levels);
                store::<KIND>(levels, affine, to.add((step * PIXELS * 3 + at) * bytes));
            }
        }
    }
}

/// Each channel by itself.
#[target_feature(enable = "avx2,f16c")]
fn planar<const KIND: u8>(converter: &Converter, pixels: &[[u8; 3]], out: &mut [u8]) {
    let bytes = bytes_of(KIND);
    assert_eq!(pixels.len() * 3 * bytes, out.len());
    let plane = pixels.len() * bytes;
    let channels = [every_third(0), every_third(1), every_third(2)];
    let mut affine = [(_mm256_setzero_ps(), _mm256_setzero_ps()); 3];
    for (channel, (scale, bias)) in affine.iter_mut().enumerate() {
        *scale = _mm256_set1_ps(converter.affine.scale[channel]);
        *bias = _mm256_set1_ps(converter.affine.bias[channel]);
    }
    let to = out.as_mut_ptr();
    for (step, pixels) in pixels.as_chunks::<PIXELS>().0.iter().enumerate() {
        // SAFETY: the first 16 and the last 16 of the step's 24 levels.
        let step_levels = unsafe {
            let from = pixels.as_ptr().cast::<u8>();
            let first = _mm256_castsi128_si256(_mm_loadu_si128(from.cast()));
            _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(from.add(SECOND_HALF).cast()))
        };
        for channel in 0..3 {
            let levels = _mm256_shuffle_epi8(step_levels, channels[channel]);
            // SAFETY: the place of 8 pixels in one of three planes, which out holds, as found above.
            unsafe {
                store::<KIND>(levels, affine[channel], to.add(channel * plane + step * PIXELS * bytes));
            }
        }
    }
}

/// Eight numbers, taking turns by channel, of the vector `number` of a step.
#[target_feature(enable = "avx2")]
fn turning(by_channel: [f32; 3], number: usize) -> __m256 {
    let mut turns = [0.0; PIXELS];
    for (lane, turn) in turns.iter_mut().enumerate() {
        *turn = by_channel[(number * PIXELS + lane) % 3];
    }
    // SAFETY: an array of 32 bytes.
    unsafe { _mm256_loadu_ps(turns.as_ptr()) }
}

/// Takes a channel's levels of four pixels from the start of the first half, of four from the end of the second, each as 32 bits.
#[target_feature(enable = "avx2")]
fn every_third(channel: usize) -> __m256i {
    let mut places = [-1i8; 32];
    for pixel in 0..PIXELS {
        let from = if pixel < PIXELS / 2 { 0 } else { SECOND_HALF };
        places[pixel * 4] = (pixel * 3 + channel - from) as i8;
    }
    // SAFETY: an array of 32 bytes.
    unsafe { _mm256_loadu_si256(places.as_ptr().cast()) }
}

/// Writes what becomes of eight levels.
///
/// # Safety
/// They fit at `to`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn store<const KIND: u8>(levels: __m256i, (scale, bias): (__m256, __m256), to: *mut u8) {
    let numbers = || _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(levels), scale), bias);
    // SAFETY: as the caller says, for each type's eight.
    unsafe {
        match KIND {
            UINT8 => _mm_storel_epi64(to.cast(), _mm_packus_epi16(words(levels), _mm_setzero_si128())),
            FLOAT16 => _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(numbers())),
            BFLOAT16 => _mm_storeu_si128(to.cast(), bfloat16(numbers())),
            _ => _mm256_storeu_ps(to.cast(), numbers()),
        }
    }
}

/// As `numbers::bfloat16`; levels never make a NaN.
#[target_feature(enable = "avx2")]
fn bfloat16(numbers: __m256) -> __m128i {
    let bits = _mm256_castps_si256(numbers);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    words(_mm256_srli_epi32::<16>(rounded))
}

/// Eight numbers below 2¹⁶, with 16 bits each.
#[target_feature(enable = "avx2")]
fn words(numbers: __m256i) -> __m128i {
    _mm_packus_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers))
}
