//! JPEG through libjpeg-turbo: a header, then as few rows and columns as a crop needs.
//!
//! Promises: the pixels of a region equal those of the whole image at the same scale, whatever the subsampling; a file
//! that ends early, or whose coded data is damaged inside what was read, is an error with the byte where it shows;
//! memory and passes are bounded before anything large is allocated. Colour conversion follows Pillow: grey is
//! replicated, CMYK and YCCK are taken as inverted (Adobe's habit) and turned to RGB by Pillow's formula.

#![allow(unsafe_code)]

pub mod alone;
mod bits;
mod ffi;
mod huffman;
mod scan;

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use scan::Scan;

use super::error::DecodeError;
use super::orientation::{self, Orientation, Rect, Size};
use super::{Limits, MAX_SCANS};

/// Columns beyond the crop at either side: smoothed chroma at a column takes its neighbours' samples, which
/// jpeg_crop_scanline leaves out at the edge of what it decodes.
const MARGIN: u32 = 2;

/// What the library takes for itself, with some rows between its stages: tables, the ends of what it allocates in parts.
const OWN_BYTES: u64 = 1 << 20;

/// What a JPEG's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// As stored, before the orientation.
    pub size: Size,
    /// Colour channels: 1, 3 or 4.
    pub components: u32,
    /// Whether every coefficient must be held before the first row (progressive files).
    pub multiple_scans: bool,
    /// What those take; 0 where rows can be had one after the other.
    pub coefficient_bytes: u64,
    /// Largest sampling factors (horizontal, vertical): (2, 2) is 4:2:0.
    pub sampling: (u32, u32),
    /// How the stored picture is to be turned.
    pub orientation: Orientation,
    cmyk: bool,
}

/// One decompressor, reused for every image of a thread.
#[derive(Debug)]
pub(super) struct Decompressor {
    handle: NonNull<ffi::Handle>,
    /// Where the handle decodes coefficients; this value owns it, and touches it only while the handle does not.
    scan: NonNull<Scan>,
}

// SAFETY: handle and scan own their memory, hold no thread-local state, and are used through &mut only.
unsafe impl Send for Decompressor {}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: made by forebay_jpeg_new, freed once.
        unsafe { ffi::forebay_jpeg_free(self.handle.as_ptr()) };
        // SAFETY: made by Box::into_raw in new(), freed once; the handle, which used it, is gone.
        drop(unsafe { Box::from_raw(self.scan.as_ptr()) });
    }
}

impl Decompressor {
    pub(super) fn new() -> Option<Self> {
        Self::with(|scan| scan.as_ptr().cast())
    }

    /// One that leaves all coefficients to libjpeg-turbo.
    fn plain() -> Option<Self> {
        Self::with(|_| std::ptr::null_mut())
    }

    fn with(given: impl FnOnce(NonNull<Scan>) -> *mut c_void) -> Option<Self> {
        let scan = NonNull::from(Box::leak(Box::<Scan>::default()));
        // SAFETY: the scan lives as long as the handle; NULL when there is no memory.
        let Some(handle) = NonNull::new(unsafe { ffi::forebay_jpeg_new(given(scan)) }) else {
            // SAFETY: made above, and nothing else has it.
            drop(unsafe { Box::from_raw(scan.as_ptr()) });
            return None;
        };
        Some(Self { handle, scan })
    }

    /// Bytes kept between images.
    pub(super) fn scratch_bytes(&self) -> usize {
        // SAFETY: the handle uses it only inside calls that borrow this value mutably.
        unsafe { self.scan.as_ref() }.memory_bytes()
    }

    /// Frees them.
    pub(super) fn forget(&mut self) {
        // SAFETY: as above.
        unsafe { self.scan.as_mut() }.forget();
    }

    /// Reads the header of `bytes`. The file stays open, and its bytes borrowed, until the returned value is dropped.
    pub(super) fn open<'a>(&'a mut self, bytes: &'a [u8], limits: &Limits) -> Result<Open<'a>, DecodeError> {
        let mut raw = ffi::Header::default();
        // SAFETY: `bytes` outlives the use: Open borrows it and forgets the image when dropped; so does this function
        // on every error, since Open exists from here on.
        let status = unsafe {
            ffi::forebay_jpeg_read_header(self.handle.as_ptr(), bytes.as_ptr(), bytes.len(), &mut raw)
        };
        let mut open = Open { decompressor: self, bytes, header: None };
        if status != 0 {
            return Err(open.error());
        }
        let exif = if raw.exif.is_null() {
            &[]
        } else {
            // SAFETY: points at exif_length bytes in the image's pool, which lives until abort; read here only.
            unsafe { std::slice::from_raw_parts(raw.exif, raw.exif_length as usize) }
        };
        let header = check_header(&raw, orientation::from_exif_chunk(exif), limits)?;
        check_end(bytes, raw.data_offset as usize)?;
        open.header = Some(header);
        Ok(open)
    }
}

/// Refuses what can't be decoded, or not within the limits, from the header alone.
fn check_header(raw: &ffi::Header, orientation: Orientation, limits: &Limits) -> Result<Header, DecodeError> {
    let size = Size { width: raw.width, height: raw.height };
    limits.check_pixels("JPEG", size)?;
    if raw.precision != 8 {
        return Err(DecodeError::new(format!("JPEG: {} bits a sample; 8 is supported", raw.precision)));
    }
    if raw.lossless != 0 {
        return Err(DecodeError::new("JPEG: lossless coding is not supported"));
    }
    if !matches!((raw.color, raw.components), (1, 1) | (2, 3) | (3, 4)) {
        return Err(DecodeError::new(format!(
            "JPEG: {} components in a colour space other than grey, YCbCr, RGB, CMYK and YCCK",
            raw.components
        )));
    }
    Ok(Header {
        size,
        components: raw.components,
        multiple_scans: raw.multiple_scans != 0,
        coefficient_bytes: if raw.multiple_scans != 0 { raw.coefficient_bytes } else { 0 },
        sampling: (raw.max_h_samp, raw.max_v_samp),
        orientation,
        cmyk: raw.color == 3,
    })
}

/// A file that was cut has no end marker behind its data. Looked for here, so that a cut file is an error whichever
/// part of it a crop needs. Coded data can't contain the marker: 0xFF is followed by 0 there.
fn check_end(bytes: &[u8], data_offset: usize) -> Result<(), DecodeError> {
    let data = bytes.get(data_offset..).unwrap_or_default();
    if data.windows(2).rev().any(|pair| pair == [0xFF, 0xD9]) {
        return Ok(());
    }
    let what = "JPEG: truncated: the file ends without an end-of-image marker";
    Err(DecodeError::at(what, bytes.len() as u64))
}

/// An opened file.
pub(super) struct Open<'a> {
    decompressor: &'a mut Decompressor,
    bytes: &'a [u8],
    header: Option<Header>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is valid; afterwards it holds nothing of `bytes` that it would read.
        unsafe { ffi::forebay_jpeg_abort(self.handle()) }
    }
}

impl Open<'_> {
    fn handle(&self) -> *mut ffi::Handle {
        self.decompressor.handle.as_ptr()
    }

    /// What the header says. Present in every value that `open` returned.
    pub(super) fn header(&self) -> Header {
        self.header.unwrap_or_else(|| unreachable!("open() returns after the header was read"))
    }

    fn error(&self) -> DecodeError {
        // SAFETY: a NUL-terminated array inside the handle, copied before the handle changes.
        let message = unsafe { CStr::from_ptr(ffi::forebay_jpeg_message(self.handle())) }.to_string_lossy();
        // SAFETY: the handle is valid.
        let offset = unsafe { ffi::forebay_jpeg_offset(self.handle()) };
        DecodeError::at(format!("JPEG: {message}"), (offset.min(self.bytes.len())) as u64)
    }

    /// Size of the image at 1/`denominator`.
    pub(super) fn scaled(&self, denominator: u32) -> Size {
        let size = self.header().size;
        Size { width: size.width.div_ceil(denominator), height: size.height.div_ceil(denominator) }
    }

    /// Decodes `region` of the image at 1/`denominator` (1, 2, 4 or 8) into `out`, RGB. Returns the region that `out`
    /// holds, row after row without gaps: it contains the one asked for, and is as high.
    pub(super) fn decode(
        self,
        region: Rect,
        denominator: u32,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<Rect, DecodeError> {
        let header = self.header();
        let scaled = self.scaled(denominator);
        assert!(region.inside(scaled) && !region.is_empty(), "the geometry gave {region:?} of {scaled}");
        // Before the coefficients of a progressive file are read; columns decoded beyond the region are few.
        let pixels = region.size().pixels() * if header.cmyk { 4 } else { 3 };
        limits.check_bytes("JPEG", header.coefficient_bytes + pixels)?;
        let left = region.x.saturating_sub(MARGIN);
        let right = (region.x + region.width + MARGIN).min(scaled.width);
        let window = self.start(denominator, left, right - left, limits)?;
        assert_eq!((window.scaled_width, window.scaled_height), (scaled.width, scaled.height));
        let held = Rect { x: window.x, y: region.y, width: window.width, height: region.height };
        let channels: usize = if header.cmyk { 4 } else { 3 };
        let stride = held.width as usize * channels;
        // Only grows: rows are overwritten, so that clearing would be wasted.
        super::scratch::grow(out, stride * held.height as usize);
        // SAFETY: `out` holds held.height rows of `stride` bytes, and a row has held.width pixels of `channels` samples.
        let status = unsafe {
            ffi::forebay_jpeg_rows(self.handle(), region.y, region.height, out.as_mut_ptr(), stride)
        };
        if status != 0 {
            return Err(self.error());
        }
        if header.cmyk {
            cmyk_to_rgb(&mut out[..stride * held.height as usize]);
        }
        Ok(held)
    }

    /// Begins the scan, for these columns of the image at 1/`denominator`; gives those that rows will have.
    fn start(
        &self,
        denominator: u32,
        x: u32,
        width: u32,
        limits: &Limits,
    ) -> Result<ffi::Window, DecodeError> {
        let header = self.header();
        let mut window = ffi::Window {
            denominator,
            cmyk: u32::from(header.cmyk),
            max_scans: MAX_SCANS,
            max_memory: limits.max_decode_bytes.saturating_add(OWN_BYTES + 64 * u64::from(header.size.width)),
            x,
            width,
            ..ffi::Window::default()
        };
        // SAFETY: a header was read and the bytes still live.
        match unsafe { ffi::forebay_jpeg_start(self.handle(), &mut window) } {
            0 => Ok(window),
            _ => Err(self.error()),
        }
    }

    /// Decodes all coefficients, which go nowhere.
    fn coefficients(self, limits: &Limits) -> Result<(), DecodeError> {
        self.start(1, 0, self.header().size.width, limits)?;
        // SAFETY: the scan was begun and the bytes still live.
        match unsafe { ffi::forebay_jpeg_coefficients(self.handle()) } {
            0 => Ok(()),
            _ => Err(self.error()),
        }
    }
}

/// Pillow's conversion of Adobe's inverted CMYK, in place: the first 3/4 of `pixels` are RGB afterwards.
fn cmyk_to_rgb(pixels: &mut [u8]) {
    for pixel in 0..pixels.len() / 4 {
        let from = pixel * 4;
        let [c, m, y, k] =
            [pixels[from], pixels[from + 1], pixels[from + 2], pixels[from + 3]].map(|v| 255 - v);
        for (channel, ink) in [c, m, y].into_iter().enumerate() {
            pixels[pixel * 3 + channel] = super::formats::ink_to_light(ink, k);
        }
    }
}

#[cfg(test)]
mod tests;
