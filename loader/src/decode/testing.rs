//! Pictures for tests: a synthetic photograph, and libjpeg-turbo's encoder.

#![allow(unsafe_code)]

use std::ffi::c_int;

use turbojpeg_sys as tj;

use super::orientation::Size;

/// RGB pixels.
pub(crate) struct Picture {
    pub(crate) size: Size,
    pub(crate) pixels: Vec<u8>,
}

/// Gradients, edges and grain, so that every coefficient and chroma edge counts.
pub(crate) fn photo(width: u32, height: u32) -> Picture {
    let mut grain = 0x2545_F491u32;
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (grain >> 28) as i32 - 8;
            let edge = if (x / 11 + y / 7) % 2 == 0 { 60 } else { 0 };
            let base = [(x * 3) as i32 + edge, (y * 2) as i32 + 40, ((x + y) / 2) as i32 + 2 * edge];
            pixels.extend(base.map(|value| (value % 256 + noise).clamp(0, 255) as u8));
        }
    }
    Picture { size: Size { width, height }, pixels }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subsampling {
    S444,
    S422,
    S420,
    S440,
    S411,
    Grey,
}

/// How a JPEG is written.
pub(crate) struct Encoded {
    pub(crate) subsampling: Subsampling,
    pub(crate) progressive: bool,
    pub(crate) cmyk: bool,
    pub(crate) restarts: bool,
    pub(crate) quality: i32,
}

impl Default for Encoded {
    fn default() -> Self {
        Self { subsampling: Subsampling::S420, progressive: false, cmyk: false, restarts: false, quality: 90 }
    }
}

/// Encodes `picture`; as CMYK its channels are three of the inks.
pub(crate) fn jpeg(picture: &Picture, how: &Encoded) -> Vec<u8> {
    let (pixels, format, channels) = if how.cmyk {
        let inks = picture.pixels.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255 - r / 4]);
        (inks.collect(), tj::TJPF_TJPF_CMYK, 4)
    } else {
        (picture.pixels.clone(), tj::TJPF_TJPF_RGB, 3)
    };
    let subsampling = match how.subsampling {
        Subsampling::S444 => tj::TJSAMP_TJSAMP_444,
        Subsampling::S422 => tj::TJSAMP_TJSAMP_422,
        Subsampling::S420 => tj::TJSAMP_TJSAMP_420,
        Subsampling::S440 => tj::TJSAMP_TJSAMP_440,
        Subsampling::S411 => tj::TJSAMP_TJSAMP_411,
        Subsampling::Grey => tj::TJSAMP_TJSAMP_GRAY,
    };
    let (width, height) = (picture.size.width as c_int, picture.size.height as c_int);
    // SAFETY: `pixels` holds height rows of width · channels bytes; the encoder allocates `data`, which is copied and
    // freed once.
    unsafe {
        let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as c_int);
        assert!(!handle.is_null());
        let set = |parameter: u32, value: c_int| {
            assert_eq!(tj::tj3Set(handle, parameter as c_int, value), 0);
        };
        set(tj::TJPARAM_TJPARAM_QUALITY, how.quality);
        set(tj::TJPARAM_TJPARAM_SUBSAMP, subsampling as c_int);
        set(tj::TJPARAM_TJPARAM_PROGRESSIVE, c_int::from(how.progressive));
        if how.restarts {
            set(tj::TJPARAM_TJPARAM_RESTARTROWS, 1);
        }
        let (mut data, mut length) = (std::ptr::null_mut(), 0);
        let status = tj::tj3Compress8(
            handle,
            pixels.as_ptr(),
            width,
            width * channels,
            height,
            format as c_int,
            &mut data,
            &mut length,
        );
        assert_eq!(status, 0, "{:?}", std::ffi::CStr::from_ptr(tj::tj3GetErrorStr(handle)));
        let bytes = std::slice::from_raw_parts(data, length as usize).to_vec();
        tj::tj3Free(data.cast());
        tj::tj3Destroy(handle);
        bytes
    }
}

/// The same file with an EXIF block that says `orientation`.
pub(crate) fn with_exif(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}
