//! What a picture is, by its first bytes; and every format but JPEG to RGB, as Pillow's `convert("RGB")`.
//!
//! Alpha is dropped without compositing; 16-bit grey is cut at 255 and other 16-bit samples keep their high byte, since
//! that is what Pillow does; of an animation the first frame counts.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};

use super::error::{DecodeError, Result};
use super::limits::Limits;
use super::orientation::{Orientation, Size};
use super::scratch;

/// What a decoder may take for a header, whatever its picture may: profiles and tables of colours.
const LEAST_ALLOWED: u64 = 2 << 20;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }

    fn of_image_crate(self) -> ImageFormat {
        match self {
            Self::Jpeg => ImageFormat::Jpeg,
            Self::Png => ImageFormat::Png,
            Self::WebP => ImageFormat::WebP,
            Self::Gif => ImageFormat::Gif,
            Self::Bmp => ImageFormat::Bmp,
            Self::Tiff => ImageFormat::Tiff,
        }
    }
}

/// The format of `bytes`.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format> {
    let found = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Format::Jpeg,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Format::Png,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
        [b'B', b'M', ..] => Format::Bmp,
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Format::Tiff,
        [] => return Err(DecodeError::at("an empty member is no image", 0)),
        other => {
            let start = other[..other.len().min(12)].escape_ascii();
            let what = format!("no JPEG, PNG, WebP, GIF, BMP or TIFF: it starts with \"{start}\"");
            return Err(DecodeError::at(what, 0));
        }
    };
    Ok(found)
}

/// Decodes `bytes` to RGB at the start of `rgb`, using `aside`, where `admit` lets it. Returns what was admitted and what was decoded.
pub(super) fn decode<T>(
    bytes: &[u8],
    format: Format,
    limits: &Limits,
    aside: &mut Vec<u8>,
    rgb: &mut Vec<u8>,
    admit: impl FnOnce(&Header) -> Result<T>,
) -> Result<(T, Stored)> {
    let (admitted, stored) = read(bytes, format, limits, aside, admit)?;
    if stored.color == ColorType::Rgb8 {
        std::mem::swap(aside, rgb);
    } else {
        scratch::grow(rgb, stored.size.pixels() as usize * 3);
        to_rgb(&aside[..stored.bytes], stored.color, is_grey_16(bytes, format), rgb).ok_or_else(|| {
            DecodeError::new(format!("{}: {:?} samples are not supported", format.name(), stored.color))
        })?;
    }
    Ok((admitted, stored))
}

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// As stored.
    pub(super) size: Size,
    pub(super) orientation: Orientation,
    /// What decoding to RGB holds at once: the picture as stored, once more inside the decoder, and as RGB.
    pub(super) held_bytes: u64,
}

impl Header {
    fn of(decoder: &mut impl ImageDecoder, format: Format, limits: &Limits) -> Result<Self> {
        let (width, height) = decoder.dimensions();
        let size = Size { width, height };
        limits.check_pixels(format.name(), size)?;
        let held_bytes =
            decoder.total_bytes().saturating_mul(2).saturating_add(size.pixels().saturating_mul(3));
        Ok(Self { size, orientation: turned(decoder), held_bytes })
    }
}

/// The header alone: nothing is decoded.
pub(super) fn header(bytes: &[u8], format: Format, limits: &Limits) -> Result<Header> {
    guarded(format, || Header::of(&mut open(bytes, format, limits)?, format, limits))
}

fn open<'a>(bytes: &'a [u8], format: Format, limits: &Limits) -> Result<impl ImageDecoder + use<'a>> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format.of_image_crate());
    let mut bounds = image::Limits::no_limits();
    bounds.max_alloc = Some(limits.max_decode_bytes.max(LEAST_ALLOWED));
    reader.limits(bounds);
    reader.into_decoder().map_err(|error| failed(format, &error))
}

fn failed(format: Format, error: &image::ImageError) -> DecodeError {
    DecodeError::new(format!("{}: {error}", format.name()))
}

/// Damaged metadata does not make the pixels wrong: Pillow shows such pictures as stored.
fn turned(decoder: &mut impl ImageDecoder) -> Orientation {
    let found = decoder.orientation().ok();
    found.and_then(|found| Orientation::from_exif(found.to_exif())).unwrap_or_default()
}

/// A picture in a format's own colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) size: Size,
    pub(super) color: ColorType,
    pub(super) orientation: Orientation,
    pub(super) bytes: usize,
}

/// Decodes `bytes` to the start of `out`, in native byte order, where `admit` lets it: it sees the header before anything large is
/// allocated.
pub(super) fn read<T>(
    bytes: &[u8],
    format: Format,
    limits: &Limits,
    out: &mut Vec<u8>,
    admit: impl FnOnce(&Header) -> Result<T>,
) -> Result<(T, Stored)> {
    guarded(format, || {
        let mut decoder = open(bytes, format, limits)?;
        let header = Header::of(&mut decoder, format, limits)?;
        let admitted = admit(&header)?;
        let Header { size, orientation, .. } = header;
        let color = decoder.color_type();
        let length = decoder.total_bytes() as usize;
        scratch::grow(out, length);
        // Decoders of frames that do not cover the picture leave the rest as it was.
        out[..length].fill(0);
        decoder.read_image(&mut out[..length]).map_err(|error| failed(format, &error))?;
        Ok((admitted, Stored { size, color, orientation, bytes: length }))
    })
}

/// A panic in a decoder is an error of this member: the worker must survive it.
pub(super) fn guarded<T>(format: Format, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    // Byte buffers are all that it can leave half-written.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(DecodeError::new(format!("{}: damaged in a way that its decoder did not expect", format.name())))
    })
}

/// A PNG of 16-bit grey without an alpha channel; a transparent colour turns it into grey and alpha on decoding, but it
/// is 16-bit grey to Pillow.
fn is_grey_16(bytes: &[u8], format: Format) -> bool {
    // Bit depth and colour type of IHDR, which is the first chunk.
    format == Format::Png && bytes.get(24..26) == Some(&[16, 0])
}

fn to_rgb(from: &[u8], color: ColorType, grey_16: bool, rgb: &mut [u8]) -> Option<()> {
    let to = rgb.as_chunks_mut::<3>().0.iter_mut();
    match color {
        ColorType::L8 => to.zip(from).for_each(|(to, &grey)| *to = [grey; 3]),
        ColorType::La8 => to.zip(from.as_chunks::<2>().0).for_each(|(to, &[grey, _])| *to = [grey; 3]),
        ColorType::Rgba8 => to.zip(from.as_chunks::<4>().0).for_each(|(to, &[r, g, b, _])| *to = [r, g, b]),
        ColorType::L16 => to.zip(from.as_chunks::<2>().0).for_each(|(to, &grey)| *to = [cut(grey); 3]),
        ColorType::La16 if grey_16 => {
            to.zip(from.as_chunks::<4>().0).for_each(|(to, &[a, b, ..])| *to = [cut([a, b]); 3]);
        }
        ColorType::La16 => {
            to.zip(from.as_chunks::<4>().0).for_each(|(to, &[a, b, ..])| *to = [high([a, b]); 3]);
        }
        ColorType::Rgb16 => to.zip(from.as_chunks::<6>().0).for_each(|(to, &[a, b, c, d, e, f])| {
            *to = [high([a, b]), high([c, d]), high([e, f])];
        }),
        ColorType::Rgba16 => to.zip(from.as_chunks::<8>().0).for_each(|(to, &[a, b, c, d, e, f, ..])| {
            *to = [high([a, b]), high([c, d]), high([e, f])];
        }),
        _ => return None,
    }
    Some(())
}

fn cut(sample: [u8; 2]) -> u8 {
    u16::from_ne_bytes(sample).min(255) as u8
}

fn high(sample: [u8; 2]) -> u8 {
    (u16::from_ne_bytes(sample) >> 8) as u8
}

/// Pillow's CMYK to RGB: what an ink leaves of the light that black leaves.
pub(super) fn ink_to_light(ink: u8, black: u8) -> u8 {
    let light = 255 - u32::from(black);
    // a · b / 255, rounded, without a division.
    let product = u32::from(ink) * light + 128;
    (light.saturating_sub(((product >> 8) + product) >> 8)) as u8
}
