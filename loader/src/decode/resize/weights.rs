//! How much of which source pixel goes into each output pixel: Pillow's kernels, in fixed point.

use super::Span;
use crate::decode::geometry::Filter;
use crate::field::Interpolation;

/// Bits behind the point. A weight has 16 bits with its sign and is 1.2 at most (the cubic kernel between two pixels).
pub(super) const BITS: u32 = 14;
/// Half of the last place that is kept, so that cutting rounds.
pub(super) const HALF: i32 = 1 << (BITS - 1);

/// One direction: for each output pixel the first source pixel, and the weights of `taps` from there on; zeros fill up.
#[derive(Debug, Default)]
struct Weights {
    taps: usize,
    firsts: Vec<u32>,
    values: Vec<i16>,
}

impl Weights {
    /// `span` of `from` source pixels as `to` output pixels, with a number of taps that `multiple` divides.
    fn set(&mut self, span: Span, from: u32, to: u32, filter: Filter, mirrored: bool, multiple: usize) {
        let step = span.length / f64::from(to);
        // A kernel that shrinks a picture is as wide as what it shrinks.
        let stretch = step.max(1.0);
        let support = super::support(filter) * stretch;
        self.taps = ((support * 2.0).ceil() as usize + 1).next_multiple_of(multiple);
        self.firsts.clear();
        self.values.clear();
        self.values.resize(self.taps * to as usize, 0);
        for (number, weights) in self.values.chunks_exact_mut(self.taps).enumerate() {
            let number = if mirrored { to as usize - 1 - number } else { number };
            let centre = span.start + (number as f64 + 0.5) * step;
            // Pillow's rounding of the ends (precompute_coeffs in its Resample.c), cut at the edges.
            let first = ((centre - support + 0.5).max(0.0) as u32).min(from - 1);
            let end = ((centre + support + 0.5).max(0.0) as u32).clamp(first + 1, from);
            let reach = (end - first) as usize;
            let at = |tap: usize| (f64::from(first) + tap as f64 - centre + 0.5) / stretch;
            fill(weights, reach, |tap| kernel(filter.interpolation, at(tap)));
            self.firsts.push(first);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.firsts.capacity() * size_of::<u32>() + self.values.capacity() * size_of::<i16>()
    }
}

/// Writes the first `reach` weights so that they add up to 1 to the last bit: a plain area keeps its colour.
fn fill(weights: &mut [i16], reach: usize, kernel: impl Fn(usize) -> f64) {
    let sum: f64 = (0..reach).map(&kernel).sum();
    let one = f64::from(1 << BITS);
    // A pixel between kernels' reaches takes the nearest source pixel.
    if sum.abs() < f64::EPSILON {
        weights[0] = 1 << BITS;
        return;
    }
    let (mut left, mut largest) = (1 << BITS, 0);
    for tap in 0..reach {
        weights[tap] = (kernel(tap) / sum * one).round() as i16;
        left -= i32::from(weights[tap]);
        if weights[tap] > weights[largest] {
            largest = tap;
        }
    }
    weights[largest] += left as i16;
}

/// The kernel at `distance` from its centre.
fn kernel(interpolation: Interpolation, distance: f64) -> f64 {
    let x = distance.abs();
    match interpolation {
        Interpolation::Nearest => f64::from(u8::from(x <= 0.5)),
        Interpolation::Bilinear => (1.0 - x).max(0.0),
        // Keys' cubic with a = −0.5, Pillow's.
        Interpolation::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        Interpolation::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        Interpolation::Bicubic => 0.0,
    }
}

/// What one output row is mixed from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix<'a> {
    /// The first source row.
    pub(super) first: usize,
    /// Of it and the rows below it; an even number.
    pub(super) weights: &'a [i16],
    /// The last source row; weights beyond it are zero.
    pub(super) last: usize,
}

/// Weights of rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    weights: Weights,
    last: usize,
}

impl Rows {
    pub(super) fn set(&mut self, span: Span, from: u32, to: u32, filter: Filter, mirrored: bool) {
        self.weights.set(span, from, to, filter, mirrored, 2);
        self.last = from as usize - 1;
    }

    pub(super) fn of(&self, row: usize) -> Mix<'_> {
        let taps = self.weights.taps;
        let weights = &self.weights.values[row * taps..][..taps];
        Mix { first: self.weights.firsts[row] as usize, weights, last: self.last }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.weights.memory_bytes()
    }
}

/// Pixels that a kernel computes side by side.
pub(super) const ABREAST: usize = 8;
/// Source pixels that a kernel takes at once.
pub(super) const GROUP: usize = 4;
/// Bytes that it loads for them.
const LOAD: usize = 16;

/// Weights of pixels in a row.
#[derive(Debug, Default)]
pub(super) struct Pixels {
    weights: Weights,
    /// Per [`ABREAST`] pixels, the first source byte of each; the last ones are filled up with the last pixel's.
    pub(super) starts: Vec<[u32; ABREAST]>,
    /// Per [`ABREAST`] pixels, for pixels i and i + 4 together, per group of taps: its first and second pair of weights, once
    /// per channel and once for nothing. As the vector kernel multiplies them.
    pub(super) pairs: Vec<[[i32; 8]; 2]>,
    /// Bytes of a row that the vector kernel may read, from the first one on: all groups of the last pixel, and the rest of the
    /// last load.
    pub(super) reach: usize,
}

impl Pixels {
    pub(super) fn set(&mut self, span: Span, from: u32, to: u32, filter: Filter, mirrored: bool) {
        self.weights.set(span, from, to, filter, mirrored, GROUP);
        let Self { weights: Weights { taps, firsts, values }, starts, pairs, reach } = self;
        starts.clear();
        pairs.clear();
        let last = firsts.len() - 1;
        let furthest = firsts.iter().max().map_or(0, |first| *first as usize);
        *reach = (furthest + *taps - GROUP) * 3 + LOAD;
        for block in (0..firsts.len()).step_by(ABREAST) {
            let pixel = |number: usize| (block + number).min(last);
            starts.push(std::array::from_fn(|number| firsts[pixel(number)] * 3));
            for number in 0..ABREAST / 2 {
                let weights = [pixel(number), pixel(number + 4)].map(|at| &values[at * *taps..][..*taps]);
                for group in (0..*taps).step_by(GROUP) {
                    pairs.push([0, 2].map(|half| {
                        let [left, right] = weights.map(|weights| pair(&weights[group + half..]));
                        [left, left, left, left, right, right, right, right]
                    }));
                }
            }
        }
    }

    /// Groups of taps of each pixel.
    pub(super) fn groups(&self) -> usize {
        self.weights.taps / GROUP
    }

    /// The first source pixel and the weights of each output pixel.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &[i16])> {
        let firsts = self.weights.firsts.iter().map(|first| *first as usize);
        firsts.zip(self.weights.values.chunks_exact(self.weights.taps.max(1)))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.weights.memory_bytes()
            + self.starts.capacity() * size_of::<[u32; ABREAST]>()
            + self.pairs.capacity() * size_of::<[[i32; 8]; 2]>()
    }
}

/// The first two weights in one word, the first one below.
pub(super) fn pair(weights: &[i16]) -> i32 {
    i32::from(weights[0] as u16) | i32::from(weights[1]) << 16
}
