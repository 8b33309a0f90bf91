//! Why a device doesn't decode an image: the CPU may.

use crate::error::Error;

/// Why one image was not decoded. The others of its group were.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no JPEG, or a broken one.
    #[error("not a whole JPEG: {what}")]
    Corrupt {
        /// What is wrong with it.
        what: String,
    },
    /// A JPEG of a kind that the device's decoder doesn't take.
    #[error("a JPEG that the device doesn't decode: {what}")]
    Unsupported {
        /// Which kind.
        what: String,
    },
    /// Its size is not the one that its target was made for.
    #[error("an image of {width} by {height} for a target of {expected_width} by {expected_height}")]
    Size {
        /// Pixels in a row, as the decoder would write them.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels in a row of the target.
        expected_width: u32,
        /// Rows of the target.
        expected_height: u32,
    },
    /// There is no memory for what decoding it takes beside its pixels.
    #[error("no memory to decode it in")]
    Memory(#[source] Error),
    /// The decoder failed at it.
    #[error("the device's decoder failed at it")]
    Failed(#[source] Error),
}

impl Refusal {
    /// A word for statistics: "corrupt", "unsupported", "size", "memory", "failed".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "corrupt",
            Self::Unsupported { .. } => "unsupported",
            Self::Size { .. } => "size",
            Self::Memory(_) => "memory",
            Self::Failed(_) => "failed",
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}
