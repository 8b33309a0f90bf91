//! Which pixels of a picture in device memory become which pixels of a batch.

use crate::{Channels, Filter};

/// A picture in device memory: uint8, channel by channel, upright or as its file stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Of its first pixel.
    pub address: u64,
    /// Bytes from row to row.
    pub stride: u64,
    /// Numbers of each pixel.
    pub channels: Channels,
}

/// From the stored picture to the batch's: transposed first, then mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Rows become columns.
    pub transpose: bool,
    /// Left becomes right.
    pub flip_x: bool,
    /// Top becomes bottom.
    pub flip_y: bool,
}

/// What is cut out of a picture: crop → resize → window → turn. Pairs are along x and along y of the stored picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First pixel and size of the crop, which lies inside the picture. A kernel's reach ends there too.
    pub crop: [(u32, u32); 2],
    /// What the crop is resized to: at least 1; its own size for no resize.
    pub scaled: [u32; 2],
    /// First pixel and size of what is shown of that; where it reaches beyond, pixels are 0. Its size is the output's, before it is turned.
    pub window: [(i64, u32); 2],
    /// What follows.
    pub turn: Turn,
    /// Which pass of a resize comes first: the cubic kernel overshoots, and what leaves 0 to 255 in between is cut.
    pub columns_first: bool,
}

/// A picture's row in the table of [`crate::CropArgs`] and [`crate::CropResizeArgs`]. Pairs are along x and along y of the stored picture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Address of the region's first pixel.
    pub pixels: u64,
    /// Bytes from row to row.
    pub stride: u64,
    /// Address of [`Self::weight_bytes`] bytes for weights, a multiple of 8; for a resize alone.
    pub weights: u64,
    /// Where the kept pixels begin in the region, in pixels; whole numbers for [`crate::CropArgs`].
    pub start: [f64; 2],
    /// From one kept pixel to the next, in the region's pixels; 1 for [`crate::CropArgs`].
    pub step: [f64; 2],
    /// Size of the region: no pixel beyond it is read. At least 1 where pixels are kept.
    pub region: [u32; 2],
    /// The first pixel of the window that is kept, not 0.
    pub first: [u32; 2],
    /// How many are.
    pub count: [u32; 2],
    /// Weights that there is room for per kept pixel, a multiple of 4.
    pub taps: [u32; 2],
    /// Bits: 1 transposes, 2 mirrors along x, 4 along y, 8 combines columns first.
    pub turn: u32,
}

impl Sample {
    /// Bytes of a row of the table.
    pub const BYTES: usize = size_of::<Self>();

    /// A cut of a picture.
    pub fn new(picture: Picture, cut: &Cut) -> Self {
        let [x, y] = cut.crop.map(|(start, _)| u64::from(start));
        let mut sample = Self {
            pixels: picture.address + y * picture.stride + x * picture.channels as u64,
            stride: picture.stride,
            weights: 0,
            start: [0.0; 2],
            step: [1.0; 2],
            region: cut.crop.map(|(_, length)| length),
            first: [0; 2],
            count: [0; 2],
            taps: [0; 2],
            turn: cut.turn.bits() | if cut.columns_first { 8 } else { 0 },
        };
        for axis in 0..2 {
            let (scaled, (window, shown)) = (cut.scaled[axis], cut.window[axis]);
            let kept = window.clamp(0, i64::from(scaled));
            let end = window.saturating_add(i64::from(shown)).clamp(kept, i64::from(scaled));
            sample.step[axis] = f64::from(cut.crop[axis].1) / f64::from(scaled);
            sample.start[axis] = kept as f64 * sample.step[axis];
            // Where nothing is kept, the first one doesn't matter.
            sample.first[axis] = u32::try_from(kept - window).unwrap_or(0);
            sample.count[axis] = (end - kept) as u32;
        }
        sample
    }

    /// The same with room for the weights of a resize at `address`, which is a multiple of 8; [`Self::weight_bytes`] says how much.
    pub fn resized(mut self, filter: Filter, address: u64) -> Self {
        self.weights = address;
        self.taps = self.step.map(|step| {
            let reach = (filter.support() * step.max(1.0) * 2.0).ceil() as u32;
            reach.saturating_add(1).next_multiple_of(4)
        });
        self
    }

    /// Bytes that its weights take, a multiple of 8; 0 without [`Self::resized`]. About 4 per pixel of the region's height and width with
    /// the triangle, twice that with the cubic kernel, and 20 per row and column of the output.
    pub fn weight_bytes(&self) -> u64 {
        let along = |axis: usize| u64::from(self.count[axis]) * (8 + 2 * u64::from(self.taps[axis]));
        if self.taps == [0; 2] { 0 } else { along(0) + along(1) }
    }

    /// Whether each kept pixel is one of the picture's: then [`crate::CropArgs`] gives the same as [`crate::CropResizeArgs`], sooner.
    pub fn is_plain(&self) -> bool {
        self.step == [1.0; 2] && self.start.iter().all(|start| start.fract() == 0.0)
    }

    /// As they lie in the table.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let longs = [self.pixels, self.stride, self.weights].map(u64::to_ne_bytes);
        let reals = [self.start, self.step].map(|pair| pair.map(f64::to_ne_bytes));
        let words = [self.region, self.first, self.count, self.taps, [self.turn, 0]];
        let words = words.map(|pair| pair.map(u32::to_ne_bytes));
        let fields =
            [longs.as_flattened(), reals.as_flattened().as_flattened(), words.as_flattened().as_flattened()];
        let fields = fields.into_iter().flatten();
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = *field);
        bytes
    }
}

impl Turn {
    fn bits(self) -> u32 {
        u32::from(self.transpose) | u32::from(self.flip_x) << 1 | u32::from(self.flip_y) << 2
    }
}
