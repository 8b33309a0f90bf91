//! What a user asks for: fields of a sample and what is done to them.

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::numbers::Affine;

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Its name in the batch.
    pub name: String,
    /// Member suffixes that hold it, without dot, lower case, first match wins: `["jpg", "jpeg"]`.
    pub suffixes: Vec<String>,
    /// How it is read.
    pub kind: FieldKind,
    /// What becomes of samples whose shapes differ.
    pub shapes: Shapes,
}

/// How a member's bytes become a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// RGB pixels: uint8 [height, width, 3], or what `convert` makes of them.
    Image {
        /// Applied in order.
        transforms: Vec<Transform>,
        /// How near to Pillow's pixels.
        decode: DecodeMode,
        /// What becomes of the pixels behind them.
        #[serde(default)]
        convert: Convert,
    },
    /// uint8 [height, width]: class indexes, with the geometry of the image field `like`, nearest.
    Mask {
        /// The image field whose crop and flip it takes.
        like: String,
    },
    /// int64 from decimal text.
    Int,
    /// float64 from decimal text.
    Float,
    /// str, UTF-8.
    Text,
    /// A JSON document.
    Json,
    /// bytes, as they are.
    Bytes,
    /// An array in numpy's .npy format, any dtype without objects.
    Numpy,
}

/// What becomes of samples of one batch whose shapes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shapes {
    /// An error that names both samples.
    #[default]
    Equal,
    /// Padded at the end of every dimension to the largest, with this value.
    Pad(f64),
    /// A list of arrays.
    Ragged,
}

/// How near to Pillow's pixels decoding stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecodeMode {
    /// Within 2 levels of Pillow on the same box, 0.5 on average.
    #[default]
    Exact,
    /// DCT scaling where the output is much smaller than the crop; the error is published.
    Fast,
}

/// Geometry, named and parameterised as in torchvision.transforms.v2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// A random box, resized to `size`.
    RandomResizedCrop {
        /// (height, width) of the output.
        size: (u32, u32),
        /// Bounds of the box's area, as parts of the image's.
        scale: (f64, f64),
        /// Bounds of width / height; drawn log-uniformly.
        ratio: (f64, f64),
        /// How pixels are combined.
        interpolation: Interpolation,
        /// Whether shrinking low-passes first, as Pillow does.
        antialias: bool,
    },
    /// The whole image, resized.
    Resize {
        /// What the output measures.
        size: ResizeTo,
        /// How pixels are combined.
        interpolation: Interpolation,
        /// Whether shrinking low-passes first.
        antialias: bool,
    },
    /// A random box of `size`, not resized.
    RandomCrop {
        /// (height, width) of the output.
        size: (u32, u32),
        /// Whether a smaller image is padded with zeros first, at both ends by what is missing, as torchvision does; else it is an error.
        pad_if_needed: bool,
    },
    /// The middle; smaller images are padded with zeros, as torchvision does.
    CenterCrop {
        /// (height, width) of the output.
        size: (u32, u32),
    },
    /// Mirrored with this probability.
    RandomHorizontalFlip {
        /// The probability.
        p: f64,
    },
}

/// What Resize's output measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeTo {
    /// The shorter side; the longer one follows, at most `max_size` where given.
    Shorter {
        /// Pixels of the shorter side.
        side: u32,
        /// The most that the longer side may measure.
        max_size: Option<u32>,
    },
    /// At most so many pixels of the longer side, whose ratio stays; smaller images stay as they are.
    Within(u32),
    /// (height, width), whatever the image's ratio.
    Exactly(u32, u32),
}

/// How pixels are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel, as Pillow's NEAREST.
    Nearest,
    /// Triangle filter.
    #[default]
    Bilinear,
    /// Keys cubic, a = −0.5, as Pillow's BICUBIC.
    Bicubic,
}

/// What becomes of an image's pixels behind its transforms: normalised, cast, laid out. The same numbers wherever it is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Convert {
    /// Without it, levels stay 0 to 255.
    pub normalize: Option<Normalize>,
    /// The type of the numbers.
    pub dtype: PixelType,
    /// Their order.
    pub layout: PixelLayout,
}

/// (level / 255 − mean) / std, by channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalize {
    /// Of red, green, blue, where 1 is the highest level.
    pub mean: [f64; 3],
    /// As `mean`; above 0.
    pub std: [f64; 3],
}

/// The type of an image's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum PixelType {
    #[default]
    UInt8,
    Float16,
    BFloat16,
    Float32,
}

impl PixelType {
    /// As arrays name it.
    pub const fn dtype(self) -> DType {
        match self {
            Self::UInt8 => DType::U8,
            Self::Float16 => DType::F16,
            Self::BFloat16 => DType::BF16,
            Self::Float32 => DType::F32,
        }
    }
}

/// The order of an image's numbers in memory, and of the batch's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelLayout {
    /// [rows, height, width, channels], as images are decoded.
    #[default]
    Nhwc,
    /// [rows, channels, height, width], a plane after the other.
    Nchw,
    /// [rows, channels, height, width] in the memory of NHWC: strides tell.
    ChannelsLast,
}

impl Convert {
    /// Whether the bytes stay as they were decoded, whatever the batch calls their dimensions.
    pub fn is_plain(&self) -> bool {
        *self == Self { layout: self.layout, ..Self::default() } && !self.is_planar()
    }

    /// Whether each channel lies by itself.
    pub fn is_planar(&self) -> bool {
        self.layout == PixelLayout::Nchw
    }

    /// The image's dimensions in memory, outermost first.
    pub fn shape(&self, height: usize, width: usize) -> [usize; 3] {
        if self.is_planar() { [3, height, width] } else { [height, width, 3] }
    }

    /// What is multiplied and added.
    pub fn affine(&self) -> Affine {
        self.normalize.map_or(Affine::UNIT, |Normalize { mean, std }| Affine::normalizing(mean, std))
    }

    /// What can't be done, if anything.
    ///
    /// # Errors
    /// Says what to change.
    pub fn check(&self) -> Result<(), &'static str> {
        let Some(Normalize { mean, std }) = &self.normalize else { return Ok(()) };
        if self.dtype == PixelType::UInt8 {
            return Err("normalised pixels don't fit uint8: cast to float32, float16 or bfloat16");
        }
        if mean.iter().chain(std).any(|number| !number.is_finite()) || std.iter().any(|&number| number <= 0.0)
        {
            return Err("a mean must be a finite number, and a std one above 0");
        }
        if !self.affine().is_finite() {
            return Err("a std is so small that float32 can't hold what it makes of pixels");
        }
        Ok(())
    }
}
