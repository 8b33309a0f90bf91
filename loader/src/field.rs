//! What a user asks for: fields of a sample and what is done to them.

use serde::{Deserialize, Serialize};

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
    /// uint8 [height, width, 3], RGB.
    Image {
        /// Applied in order.
        transforms: Vec<Transform>,
        /// How near to Pillow's pixels.
        decode: DecodeMode,
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
