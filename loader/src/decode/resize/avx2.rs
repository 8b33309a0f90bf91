//! The kernels in AVX2: products of pixel and weight are added in pairs (`vpmaddwd`), 32 bits wide, as the portable ones add them.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::weights::{ABREAST, BITS, GROUP, HALF, Mix, Pixels, pair};
use super::{Source, portable};

/// Bytes of a vector.
const WIDTH: usize = 32;
/// Bytes of [`ABREAST`] pixels.
const BLOCK: usize = ABREAST * 3;
/// Bytes of four of them, one half of a vector's results.
const HALF_BLOCK: usize = BLOCK / 2;

/// Pairs of rows that are mixed here; a picture that shrinks by more than 30 takes more.
const MOST_PAIRS: usize = 32;

/// Bytes of five pixels, what a half of a vector holds of them.
const FIVE: usize = 15;
/// How far ahead rows are fetched that are read backwards.
const ROWS_AHEAD: usize = 4;

/// Says that the processor has AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token(());

impl Token {
    pub(super) fn new() -> Option<Self> {
        std::is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    pub(super) fn blend(self, source: Source<'_>, mix: Mix<'_>, out: &mut [u8]) {
        if out.len() < WIDTH || mix.weights.len() > 2 * MOST_PAIRS {
            return portable::blend(source, mix, out);
        }
        // SAFETY: a token exists where the processor has AVX2.
        unsafe { blend(source, mix, out) }
    }

    pub(super) fn copy(self, source: Source<'_>, number: usize, mirrored: bool, out: &mut [u8]) {
        let row = source.row(number);
        if row.len() < WIDTH || row.len() != out.len() || !row.len().is_multiple_of(3) {
            return portable::copy(row, mirrored, out);
        }
        // SAFETY: a token exists where the processor has AVX2.
        unsafe {
            match mirrored {
                true => {
                    // Reading backwards, the processor doesn't see what comes next.
                    fetch(source, number + ROWS_AHEAD);
                    mirror(row, out);
                }
                false => copy(row, out),
            }
        }
    }

    pub(super) fn convolve(self, row: &[u8], pixels: &Pixels, out: &mut [u8]) {
        // SAFETY: a token exists where the processor has AVX2.
        unsafe {
            match pixels.groups() {
                1 => convolve::<1>(row, pixels, out),
                2 => convolve::<2>(row, pixels, out),
                _ => convolve::<0>(row, pixels, out),
            }
        }
    }
}

// Closures inherit these functions' features, and what is called without them (map, from_fn) can't inline such closures: so the
// loops below are plain.

/// Copies a row: 32 bytes at a time in place of a call, which costs as much as the copy of some hundred bytes.
#[target_feature(enable = "avx2")]
fn copy(row: &[u8], out: &mut [u8]) {
    let length = out.len();
    assert!(row.len() == length && length >= WIDTH);
    let mut at = 0;
    loop {
        // SAFETY: at + WIDTH is at most both lengths.
        unsafe {
            let bytes = _mm256_loadu_si256(row.as_ptr().add(at).cast());
            _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), bytes);
        }
        if at + WIDTH == length {
            return;
        }
        // The last vector overlaps the one before it.
        at = (at + WIDTH).min(length - WIDTH);
    }
}

/// Copies a row's pixels from the last to the first, five in each half of a vector.
#[target_feature(enable = "avx2")]
fn mirror(row: &[u8], out: &mut [u8]) {
    let length = out.len();
    assert!(row.len() == length && length.is_multiple_of(3));
    // Of 16 bytes the last 15, pixel by pixel from behind; the 16th is written again by what follows.
    let order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, -1));
    let mut at = 0;
    while at + 2 * FIVE < length {
        // SAFETY: what is read and written ends at most at byte at + 2 * FIVE + 1 of either end, which is inside.
        unsafe {
            let from = row.as_ptr().add(length - at - FIVE - 1);
            let (first, second) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.sub(FIVE).cast()));
            let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second);
            let turned = _mm256_shuffle_epi8(both, order);
            let to = out.as_mut_ptr().add(at);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(turned));
            _mm_storeu_si128(to.add(FIVE).cast(), _mm256_extracti128_si256::<1>(turned));
        }
        at += 2 * FIVE;
    }
    portable::copy(&row[..length - at], true, &mut out[at..]);
}

/// Asks for a row that is read soon; one that isn't there is no matter.
#[target_feature(enable = "avx2")]
fn fetch(source: Source<'_>, number: usize) {
    let start = source.bytes.as_ptr().wrapping_add(number * source.stride);
    for at in (0..source.length).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast());
    }
}

#[target_feature(enable = "avx2")]
fn blend(source: Source<'_>, mix: Mix<'_>, out: &mut [u8]) {
    let length = out.len();
    // The last row that is read, and with it every other one: slicing panics where it isn't there whole.
    assert!(source.row(mix.last).len() == length && length >= WIDTH);
    let mut pairs = [(0, 0, 0); MOST_PAIRS];
    let count = mix.weights.len() / 2;
    for (number, weights) in mix.weights.as_chunks::<2>().0.iter().enumerate() {
        let row = mix.first + 2 * number;
        let start = |row: usize| row.min(mix.last) * source.stride;
        pairs[number] = (start(row), start(row + 1), pair(weights));
    }
    let zero = _mm256_setzero_si256();
    let mut at = 0;
    loop {
        let mut sums = [_mm256_set1_epi32(HALF); 4];
        for &(upper, lower, weights) in &pairs[..count] {
            // SAFETY: at + WIDTH is at most the row's length, and rows up to mix.last were found above.
            let (upper, lower) = unsafe {
                let from = source.bytes.as_ptr().add(at);
                (_mm256_loadu_si256(from.add(upper).cast()), _mm256_loadu_si256(from.add(lower).cast()))
            };
            let weights = _mm256_set1_epi32(weights);
            let (low, high) = (_mm256_unpacklo_epi8(upper, lower), _mm256_unpackhi_epi8(upper, lower));
            let products = [
                _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weights),
                _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weights),
                _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weights),
                _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weights),
            ];
            for (sum, product) in sums.iter_mut().zip(products) {
                *sum = _mm256_add_epi32(*sum, product);
            }
        }
        // Packing takes the halves of the vectors apart as unpacking did.
        let packed = pack(sums);
        // SAFETY: at + WIDTH is at most out's length.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), packed) };
        if at + WIDTH == length {
            return;
        }
        // The last vector overlaps the one before it.
        at = (at + WIDTH).min(length - WIDTH);
    }
}

/// `GROUPS` groups of taps a pixel; 0: as many as there are.
#[target_feature(enable = "avx2")]
fn convolve<const GROUPS: usize>(row: &[u8], pixels: &Pixels, out: &mut [u8]) {
    let groups = if GROUPS == 0 { pixels.groups() } else { GROUPS };
    // What is read behind the row's end has weights of zero.
    assert!(pixels.reach <= row.len());
    let (upper, lower, compact) = (channels::<0>(), channels::<6>(), without_fourth());
    let blocks = out.len().div_ceil(BLOCK);
    let mut pairs = pixels.pairs.as_slice();
    for (block, starts) in pixels.starts[..blocks].iter().enumerate() {
        let mut sums = [_mm256_set1_epi32(HALF); 4];
        for (number, sum) in sums.iter_mut().enumerate() {
            let (mut left, mut right) = (starts[number] as usize, starts[number + 4] as usize);
            let (these, rest) = pairs.split_at(groups);
            pairs = rest;
            for [first, second] in these {
                // SAFETY: all loads of 16 bytes end at most at pixels.reach; the weights are arrays of 32 bytes.
                let (both, first, second) = unsafe {
                    let from = row.as_ptr();
                    let left = _mm_loadu_si128(from.add(left).cast());
                    let right = _mm_loadu_si128(from.add(right).cast());
                    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(left), right);
                    let weights = |pair: &[i32; 8]| _mm256_loadu_si256(pair.as_ptr().cast());
                    (both, weights(first), weights(second))
                };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_shuffle_epi8(both, upper), first));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_shuffle_epi8(both, lower), second));
                left += GROUP * 3;
                right += GROUP * 3;
            }
        }
        let packed = _mm256_shuffle_epi8(pack(sums), compact);
        store(packed, &mut out[block * BLOCK..], block + 1 < blocks);
    }
}

/// The whole part of 32 sums as bytes, cut at 0 and 255; halves of vectors stay halves.
#[target_feature(enable = "avx2")]
fn pack([a, b, c, d]: [__m256i; 4]) -> __m256i {
    const SHIFT: i32 = BITS as i32;
    _mm256_packus_epi16(
        _mm256_packs_epi32(_mm256_srai_epi32::<SHIFT>(a), _mm256_srai_epi32::<SHIFT>(b)),
        _mm256_packs_epi32(_mm256_srai_epi32::<SHIFT>(c), _mm256_srai_epi32::<SHIFT>(d)),
    )
}

/// Writes 12 bytes of each half of `pixels` to the start of `out`; where it is longer by more pixels, 4 bytes of those too, which are
/// written next.
#[target_feature(enable = "avx2")]
fn store(pixels: __m256i, out: &mut [u8], more: bool) {
    let (left, right) = (_mm256_castsi256_si128(pixels), _mm256_extracti128_si256::<1>(pixels));
    let mut whole = [0u8; BLOCK + 4];
    let more = more && out.len() >= whole.len();
    let to = if more { out.as_mut_ptr() } else { whole.as_mut_ptr() };
    // SAFETY: 16 bytes fit at 0 and at 12 of 28.
    unsafe {
        _mm_storeu_si128(to.cast(), left);
        _mm_storeu_si128(to.add(HALF_BLOCK).cast(), right);
    }
    if !more {
        let length = out.len().min(BLOCK);
        out[..length].copy_from_slice(&whole[..length]);
    }
}

/// Puts two neighbouring pixels, from byte `FIRST` of each half on, side by side by channel, 16 bits each: RR GG BB and nothing.
#[target_feature(enable = "avx2")]
fn channels<const FIRST: i8>() -> __m256i {
    let (r, g, b) = (FIRST, FIRST + 1, FIRST + 2);
    _mm256_broadcastsi128_si256(_mm_setr_epi8(
        r,
        -1,
        r + 3,
        -1,
        g,
        -1,
        g + 3,
        -1,
        b,
        -1,
        b + 3,
        -1,
        -1,
        -1,
        -1,
        -1,
    ))
}

/// Moves four pixels of 4 bytes together to 12.
#[target_feature(enable = "avx2")]
fn without_fourth() -> __m256i {
    _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1))
}
