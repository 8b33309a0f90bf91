//! Parts of decoding by themselves, for measuring what each of them takes and what libjpeg-turbo takes for the same.

use super::Decompressor;
use crate::decode::orientation::Rect;
use crate::decode::{DecodeError, Limits};

/// Whose Huffman decoder reads the coefficients of a baseline scan. All else is libjpeg-turbo's with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Huffman {
    /// This crate's, as in [`Decoder`](crate::decode::Decoder).
    Forebay,
    /// libjpeg-turbo's.
    LibjpegTurbo,
}

/// A decompressor whose steps can be asked for one by one; for one thread.
#[derive(Debug)]
pub struct Alone {
    decompressor: Decompressor,
    limits: Limits,
    pixels: Vec<u8>,
}

impl Alone {
    /// # Errors
    /// No memory.
    pub fn new(huffman: Huffman, limits: Limits) -> Result<Self, DecodeError> {
        let made = match huffman {
            Huffman::Forebay => Decompressor::new(),
            Huffman::LibjpegTurbo => Decompressor::plain(),
        };
        let decompressor = made.ok_or_else(|| DecodeError::new("JPEG: no memory for a decompressor"))?;
        Ok(Self { decompressor, limits, pixels: Vec::new() })
    }

    /// Decodes all coefficients of an image, and no pixel.
    ///
    /// # Errors
    /// Damaged bytes, and what isn't one baseline scan.
    pub fn coefficients(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let Self { decompressor, limits, .. } = self;
        decompressor.open(bytes, limits)?.coefficients(limits)
    }

    /// Decodes the pixels of a region of the stored image, or of all of it: uint8 RGB, which stay inside.
    ///
    /// # Errors
    /// Damaged bytes, a region that isn't inside the image, an image beyond the limits.
    pub fn pixels(&mut self, bytes: &[u8], region: Option<Rect>) -> Result<(), DecodeError> {
        let Self { decompressor, limits, pixels } = self;
        let open = decompressor.open(bytes, limits)?;
        let all = Rect::all(open.header().size);
        let region = region.unwrap_or(all);
        if region.is_empty() || !region.inside(all.size()) {
            return Err(DecodeError::new(format!("JPEG: {region:?} is not inside {}", all.size())));
        }
        open.decode(region, 1, limits, pixels).map(drop)
    }
}
