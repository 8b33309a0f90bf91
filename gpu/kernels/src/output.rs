//! Where a batch of pictures goes, and the arithmetic on its way.

use crate::Element;

/// How many numbers a pixel has.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channels {
    /// Grey, or a mask.
    One = 1,
    /// RGB.
    Three = 3,
}

/// What pixels are written as.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelType {
    /// Rounded to the nearest, ties to even; what lies beyond 0 and 255 becomes these.
    U8 = Element::U8 as u32,
    /// Rounded to the nearest, ties to even; from 65520 on infinite.
    F16 = Element::F16 as u32,
    /// Rounded to the nearest, ties to even.
    BF16 = Element::BF16 as u32,
    /// As computed.
    F32 = Element::F32 as u32,
}

impl PixelType {
    /// Bytes of one number.
    pub const fn size(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }
}

/// The order of a batch's numbers in memory.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Pixel by pixel. Also the memory of a tensor \[N, C, H, W\] with the strides that torch calls `channels_last`.
    Nhwc,
    /// Channel by channel of each picture.
    Nchw,
}

/// A batch of pictures that a kernel writes, each number once.
///
/// # What is written
/// For the number `x` (0 to 255) of channel `c`:
///
/// 1. `y = x · scale[c] + bias[c]` in float32: the product is rounded to the nearest float32 (ties to even), then the sum is. No fused
///    multiply-add. With [`Output::new`]'s scale 1 and bias 0 this is `x`.
/// 2. `y` as [`PixelType`] says. A NaN, which only a scale or a bias that isn't finite makes, becomes the positive quiet NaN without payload
///    in half precisions, and 0 in uint8; in float32 any.
///
/// So, but for such a NaN, the result is the same on every device and processor, to the bit. [`normalising`] gives scale and bias.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// Address of the first picture, a multiple of a number's size. Pictures follow each other without gaps.
    pub pixels: u64,
    /// Rows of each picture.
    pub height: u32,
    /// Pixels of each row.
    pub width: u32,
    /// Numbers of each pixel.
    pub channels: Channels,
    /// Their type.
    pub element: PixelType,
    /// Their order.
    pub layout: Layout,
    /// One per channel.
    pub scale: [f32; 3],
    /// One per channel.
    pub bias: [f32; 3],
}

impl Output {
    /// Pictures of uint8, pixel by pixel, with unchanged values.
    pub fn new(pixels: u64, height: u32, width: u32, channels: Channels) -> Self {
        Self {
            pixels,
            height,
            width,
            channels,
            element: PixelType::U8,
            layout: Layout::Nhwc,
            scale: [1.0; 3],
            bias: [0.0; 3],
        }
    }

    /// Pixels of a picture.
    pub fn area(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// Bytes of so many pictures.
    pub fn bytes(&self, images: u64) -> u64 {
        images * self.area() * self.channels as u64 * self.element.size()
    }
}

/// Scale and bias with which uint8 values in 0 to 255 become (x / 255 − mean) / std: computed in float64 and rounded once.
pub fn normalising(mean: f64, std: f64) -> (f32, f32) {
    ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)
}
