//! What one member may cost at most, checked before it is paid.

use super::error::{DecodeError, Result};
use super::orientation::Size;

/// Passes over a progressive JPEG. Encoders write about 10, optimisers at most 64; each costs a pass over all
/// coefficients, and a file of some kilobytes can ask for thousands.
pub(super) const MAX_SCANS: u32 = 100;

/// Bounds of one member's decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels that a header may claim. Default: 178,956,970, where Pillow too refuses to go on.
    pub max_pixels: u64,
    /// Bytes that decoding one image may hold at once beside the output's slot: pixels, coefficients, stages. Default: 1 GiB. An image
    /// that needs more is an error that says how much.
    pub max_decode_bytes: u64,
    /// Scratch bytes that a [`Decoder`](super::Decoder) keeps from one image to the next. Default: 16 MiB, which covers
    /// photographs of about 5 megapixels.
    pub max_scratch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_decode_bytes: 1 << 30, max_scratch_bytes: 16 << 20 }
    }
}

impl Limits {
    pub(super) fn check_pixels(&self, format: &str, size: Size) -> Result<()> {
        if size.is_empty() {
            return Err(DecodeError::new(format!("{format}: {size} pixels, an image without area")));
        }
        if size.pixels() > self.max_pixels {
            return Err(DecodeError::new(format!(
                "{format}: the header claims {size} = {} pixels, the limit is {}",
                size.pixels(),
                self.max_pixels
            )));
        }
        Ok(())
    }

    pub(super) fn check_bytes(&self, what: &str, bytes: u64) -> Result<()> {
        if bytes > self.max_decode_bytes {
            let what = format!(
                "{what}: decoding needs {bytes} bytes at once, the limit is {}",
                self.max_decode_bytes
            );
            return Err(DecodeError { needs_bytes: Some(bytes), ..DecodeError::new(what) });
        }
        Ok(())
    }
}
