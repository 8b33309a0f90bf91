//! Batches of pictures: finished as they are, cut, resized.

use crate::{Kernel, Launch, Output};

/// Arguments of `forebay_convert`: normalises, casts and lays out a batch of uint8 pictures.
///
/// Each pixel is read once and written once, as [`Output`] says. The output must not overlap the input.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvertArgs {
    /// Where they go.
    pub out: Output,
    /// Address of the first picture: uint8, pixel by pixel, of the output's size, without gaps.
    pub pixels: u64,
    /// How many.
    pub images: u64,
}

/// Arguments of `forebay_crop`: parts of uint8 pictures from anywhere, turned and padded, each pixel as it is, then finished as [`Output`]
/// says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropArgs {
    /// Where they go.
    pub out: Output,
    /// Address of a [`crate::Sample`] per picture, aligned to 8 bytes.
    pub samples: u64,
    /// How many pictures.
    pub images: u64,
}

/// A kernel that widens as a picture shrinks (antialiasing).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Keys' cubic with a = −0.5.
    Bicubic,
}

impl Filter {
    /// How far the kernel reaches to either side, in pixels of what it makes.
    pub(crate) fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }
}

/// Arguments of `forebay_crop_resize`: parts of uint8 pictures from anywhere, resized, turned and padded, then finished as [`Output`]
/// says.
///
/// Before that, pixels equal the CPU path's: two passes, rounded to uint8 in between, with the same weights, in 14 bits. These must lie
/// where the samples say: `forebay_resize_weights` runs first, with [`Self::weights`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropResizeArgs {
    /// Where they go.
    pub out: Output,
    /// Address of a [`crate::Sample`] per picture, aligned to 8 bytes; each with [`crate::Sample::resized`].
    pub samples: u64,
    /// How many pictures.
    pub images: u64,
    /// How pixels are combined.
    pub filter: Filter,
}

impl CropResizeArgs {
    /// What makes the weights.
    pub fn weights(&self) -> ResizeWeightsArgs {
        let Self { samples, images, filter, .. } = *self;
        ResizeWeightsArgs { samples, images, filter, longest: self.out.width.max(self.out.height) }
    }
}

/// Arguments of `forebay_resize_weights`: how much of which source pixels goes into each row and column of each picture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResizeWeightsArgs {
    /// Address of a [`crate::Sample`] per picture, aligned to 8 bytes; each with [`crate::Sample::resized`].
    pub samples: u64,
    /// How many pictures.
    pub images: u64,
    /// How pixels are combined.
    pub filter: Filter,
    /// The most rows or columns that a picture becomes; says only how many threads there are.
    pub longest: u32,
}

/// Pixels that a thread writes together, where a kernel does nothing else with them.
const TOGETHER: u32 = 4;

impl Kernel for ConvertArgs {
    const NAME: &'static str = "forebay_convert";

    fn launch(&self) -> Launch {
        Launch::over([self.out.area().div_ceil(u64::from(TOGETHER)), self.images, 1])
    }
}

impl Kernel for CropArgs {
    const NAME: &'static str = "forebay_crop";

    fn launch(&self) -> Launch {
        Launch::over([self.out.width.div_ceil(TOGETHER).into(), self.out.height.into(), self.images])
    }
}

impl Kernel for CropResizeArgs {
    const NAME: &'static str = "forebay_crop_resize";

    fn launch(&self) -> Launch {
        Launch::over([self.out.width.into(), self.out.height.into(), self.images])
    }
}

impl Kernel for ResizeWeightsArgs {
    const NAME: &'static str = "forebay_resize_weights";

    fn launch(&self) -> Launch {
        Launch::over([self.longest.into(), 2, self.images])
    }
}
