//! A picture of class indexes: one value a pixel, as stored.
//!
//! A palette PNG gives its indexes, not its colours; a grey one its samples, unscaled whatever their depth. What has
//! several values a pixel is no mask.

use std::io::Cursor;

use image::ColorType;
use png::{BitDepth, ColorType as PngColor, Transformations};

use super::error::{DecodeError, Result};
use super::formats::{self, Format};
use super::limits::Limits;
use super::orientation::{Orientation, Rect, Size, from_exif_chunk};
use super::{Buffers, decompressor, jpeg};

/// One byte a pixel in stored order, the stored size, and how to turn it.
pub(super) fn indexes(
    bytes: &[u8],
    limits: &Limits,
    jpeg: &mut Option<jpeg::Decompressor>,
    buffers: &mut Buffers,
) -> Result<(Vec<u8>, Size, Orientation)> {
    match formats::sniff(bytes)? {
        Format::Png => formats::guarded(Format::Png, || png_indexes(bytes, limits)),
        Format::Jpeg => {
            let open = decompressor(jpeg)?.open(bytes, limits)?;
            let header = open.header();
            if header.components != 1 {
                return Err(several("JPEG", "colours"));
            }
            let needed = header.coefficient_bytes + header.size.pixels() * 4 + bytes.len() as u64;
            limits.check_bytes("JPEG", needed)?;
            open.decode(Rect::all(header.size), 1, limits, &mut buffers.source)?;
            let pixels = header.size.pixels() as usize;
            let grey = buffers.source.as_chunks::<3>().0[..pixels].iter().map(|pixel| pixel[0]).collect();
            Ok((grey, header.size, header.orientation))
        }
        other => {
            let admit = |header: &formats::Header| limits.check_bytes(other.name(), header.held_bytes);
            let ((), stored) = formats::read(bytes, other, limits, &mut buffers.aside, admit)?;
            if stored.color != ColorType::L8 {
                return Err(several(other.name(), &format!("{:?} samples", stored.color)));
            }
            Ok((buffers.aside[..stored.bytes].to_vec(), stored.size, stored.orientation))
        }
    }
}

fn several(format: &str, has: &str) -> DecodeError {
    DecodeError::new(format!(
        "{format} with {has} as a mask: a mask has one 8-bit value a pixel; write class indexes as a PNG with a palette, \
         or as an 8-bit grey one"
    ))
}

fn png_indexes(bytes: &[u8], limits: &Limits) -> Result<(Vec<u8>, Size, Orientation)> {
    let failed = |error: png::DecodingError| DecodeError::new(format!("PNG: {error}"));
    let allowed = usize::try_from(limits.max_decode_bytes).unwrap_or(usize::MAX);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: allowed });
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(failed)?;
    let info = reader.info();
    let size = Size { width: info.width, height: info.height };
    let (color, depth) = (info.color_type, info.bit_depth);
    let orientation = info.exif_metadata.as_ref().map(|chunk| from_exif_chunk(chunk)).unwrap_or_default();
    limits.check_pixels("PNG", size)?;
    if !matches!(color, PngColor::Indexed | PngColor::Grayscale) || depth == BitDepth::Sixteen {
        return Err(several("PNG", &format!("{color:?} samples of {} bits", depth as u8)));
    }
    let length = reader.output_buffer_size().unwrap_or(usize::MAX);
    limits.check_bytes("PNG", (length as u64).saturating_add(size.pixels()))?;
    let mut packed = vec![0; length];
    let line = reader.next_frame(&mut packed).map_err(failed)?.line_size;
    Ok((unpack(&packed, line, size, depth as u32), size, orientation))
}

/// One byte for each sample of `bits` bits, most significant first; rows begin on bytes.
fn unpack(packed: &[u8], line: usize, size: Size, bits: u32) -> Vec<u8> {
    let width = size.width as usize;
    let per_byte = (8 / bits) as usize;
    let keep = (0xFFu32 >> (8 - bits)) as u8;
    let mut indexes = Vec::with_capacity(size.pixels() as usize);
    for row in packed.chunks_exact(line).take(size.height as usize) {
        indexes.extend((0..width).map(|x| {
            let shift = 8 - bits - (x % per_byte) as u32 * bits;
            (row[x / per_byte] >> shift) & keep
        }));
    }
    indexes
}
