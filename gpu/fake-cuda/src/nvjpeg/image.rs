//! Images by libjpeg-turbo, with nvJPEG's answers.

use std::ffi::c_int;

use turbojpeg_sys as turbo;

use super::Status;

/// What a header says, as the getters of a parsed stream give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: u32,
    /// nvjpegChromaSubsampling_t
    pub(super) subsampling: c_int,
    /// nvjpegJpegEncoding_t: the marker of its frame.
    pub(super) encoding: c_int,
    /// Any number of scans but one.
    pub(super) many_scans: bool,
}

/// NVJPEG_CSS_…
mod css {
    pub(super) const C444: i32 = 0;
    pub(super) const C422: i32 = 1;
    pub(super) const C420: i32 = 2;
    pub(super) const C440: i32 = 3;
    pub(super) const C411: i32 = 4;
    pub(super) const GRAY: i32 = 6;
    pub(super) const UNKNOWN: i32 = -1;
}

/// A decompressor of libjpeg-turbo's.
struct Turbo(turbo::tjhandle);

impl Turbo {
    fn new() -> Self {
        // SAFETY: makes an instance, or gives null.
        let handle = unsafe { turbo::tj3Init(turbo::TJINIT_TJINIT_DECOMPRESS as c_int) };
        assert!(!handle.is_null(), "libjpeg-turbo has no memory");
        Self(handle)
    }

    fn get(&self, parameter: turbo::TJPARAM) -> c_int {
        // SAFETY: a live instance.
        unsafe { turbo::tj3Get(self.0, parameter as c_int) }
    }

    /// Whether the header could be read; warnings are none.
    fn read(&self, bytes: &[u8]) -> bool {
        // SAFETY: a live instance, and bytes that outlive the call.
        let code =
            unsafe { turbo::tj3DecompressHeader(self.0, bytes.as_ptr(), bytes.len() as turbo::size_t) };
        code == 0 || self.only_warned()
    }

    fn only_warned(&self) -> bool {
        // SAFETY: a live instance.
        unsafe { turbo::tj3GetErrorCode(self.0) == turbo::TJERR_TJERR_WARNING as c_int }
    }
}

impl Drop for Turbo {
    fn drop(&mut self) {
        // SAFETY: made by `new`, ended once.
        unsafe { turbo::tj3Destroy(self.0) };
    }
}

impl Header {
    /// Reads a header as nvjpegJpegStreamParseHeader does.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Status> {
        Self::by(&Turbo::new(), bytes)
    }

    fn by(turbo: &Turbo, bytes: &[u8]) -> Result<Self, Status> {
        if bytes.len() < 2 {
            return Err(Status::INCOMPLETE_BITSTREAM);
        }
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return Err(Status::BAD_JPEG);
        }
        let (frame, scan) = markers(bytes);
        if scan.is_none() {
            return Err(Status::INCOMPLETE_BITSTREAM);
        }
        if !turbo.read(bytes) {
            return Err(Status::BAD_JPEG);
        }
        let encoding = frame.ok_or(Status::BAD_JPEG)?;
        if !matches!(encoding, 0xC0..=0xC2) || turbo.get(turbo::TJPARAM_TJPARAM_PRECISION) != 8 {
            return Err(Status::JPEG_NOT_SUPPORTED);
        }
        let colours = turbo.get(turbo::TJPARAM_TJPARAM_COLORSPACE) as turbo::TJCS;
        let components = match colours {
            turbo::TJCS_TJCS_GRAY => 1,
            turbo::TJCS_TJCS_CMYK | turbo::TJCS_TJCS_YCCK => 4,
            _ => 3,
        };
        let subsampling = match turbo.get(turbo::TJPARAM_TJPARAM_SUBSAMP) as turbo::TJSAMP {
            turbo::TJSAMP_TJSAMP_444 => css::C444,
            turbo::TJSAMP_TJSAMP_422 => css::C422,
            turbo::TJSAMP_TJSAMP_420 => css::C420,
            turbo::TJSAMP_TJSAMP_440 => css::C440,
            turbo::TJSAMP_TJSAMP_411 => css::C411,
            turbo::TJSAMP_TJSAMP_GRAY => css::GRAY,
            _ => css::UNKNOWN,
        };
        Ok(Self {
            width: turbo.get(turbo::TJPARAM_TJPARAM_JPEGWIDTH) as u32,
            height: turbo.get(turbo::TJPARAM_TJPARAM_JPEGHEIGHT) as u32,
            components,
            subsampling,
            encoding: encoding.into(),
            many_scans: encoding == 0xC2 || scan != Some(components as u8),
        })
    }

    /// Whether the backend takes the image into a group.
    pub(super) fn is_supported(&self, hardware: bool) -> bool {
        let usual = matches!(self.components, 1 | 3) && self.subsampling != css::UNKNOWN;
        usual && !(hardware && (self.many_scans || self.subsampling == css::C411))
    }
}

/// The marker of the first frame and the number of components in the first scan, where there are any.
fn markers(bytes: &[u8]) -> (Option<u8>, Option<u8>) {
    let (mut at, mut frame) = (2, None);
    while let Some([0xFF, marker, high, low, body @ ..]) = bytes.get(at..) {
        match marker {
            0xFF => {
                at += 1;
                continue;
            }
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => frame = frame.or(Some(*marker)),
            0xDA => return (frame, body.first().copied()),
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    (frame, None)
}

/// A decoded image: rows of RGB without gaps.
pub(super) struct Pixels {
    pub(super) header: Header,
    pub(super) bytes: Vec<u8>,
}

/// Decodes an image as the backend would.
pub(super) fn decode(bytes: &[u8], hardware: bool) -> Result<Pixels, Status> {
    let turbo = Turbo::new();
    let header = Header::by(&turbo, bytes)?;
    if !header.is_supported(hardware) {
        return Err(Status::JPEG_NOT_SUPPORTED);
    }
    let mut pixels = vec![0; header.width as usize * header.height as usize * 3];
    // SAFETY: a live instance that has read the header, and room for as many rows as it said.
    let code = unsafe {
        turbo::tj3Decompress8(
            turbo.0,
            bytes.as_ptr(),
            bytes.len() as turbo::size_t,
            pixels.as_mut_ptr(),
            0,
            turbo::TJPF_TJPF_RGB as c_int,
        )
    };
    if code != 0 && !turbo.only_warned() {
        return Err(Status::BAD_JPEG);
    }
    Ok(Pixels { header, bytes: pixels })
}
