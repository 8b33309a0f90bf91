//! JPEG images of every kind, and what libjpeg-turbo makes of them.

use std::ffi::c_int;

use turbojpeg_sys::*;

/// How an image is made.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) width: i32,
    pub(crate) height: i32,
    pub(crate) subsampling: TJSAMP,
    pub(crate) parameters: &'static [(TJPARAM, i32)],
    pub(crate) pixels: TJPF,
    pub(crate) seed: u32,
}

pub(crate) const BASELINE: Kind = Kind {
    width: 61,
    height: 45,
    subsampling: TJSAMP_TJSAMP_420,
    parameters: &[],
    pixels: TJPF_TJPF_RGB,
    seed: 1,
};
pub(crate) const PROGRESSIVE: Kind =
    Kind { parameters: &[(TJPARAM_TJPARAM_PROGRESSIVE, 1)], seed: 2, ..BASELINE };
pub(crate) const ARITHMETIC: Kind =
    Kind { parameters: &[(TJPARAM_TJPARAM_ARITHMETIC, 1)], seed: 3, ..BASELINE };
pub(crate) const CMYK: Kind =
    Kind { pixels: TJPF_TJPF_CMYK, subsampling: TJSAMP_TJSAMP_444, seed: 4, ..BASELINE };
pub(crate) const RGB: Kind = Kind {
    parameters: &[(TJPARAM_TJPARAM_COLORSPACE, TJCS_TJCS_RGB as i32)],
    subsampling: TJSAMP_TJSAMP_444,
    seed: 5,
    ..BASELINE
};
pub(crate) const GREY: Kind = Kind { subsampling: TJSAMP_TJSAMP_GRAY, seed: 6, ..BASELINE };
pub(crate) const FULL: Kind =
    Kind { subsampling: TJSAMP_TJSAMP_444, width: 17, height: 33, seed: 7, ..BASELINE };
pub(crate) const HALF: Kind =
    Kind { subsampling: TJSAMP_TJSAMP_422, width: 128, height: 7, seed: 8, ..BASELINE };

impl Kind {
    /// A smooth picture with some noise.
    pub(crate) fn encode(self) -> Vec<u8> {
        let channels = if self.pixels == TJPF_TJPF_CMYK { 4 } else { 3 };
        let mut state = self.seed | 1;
        let pixels: Vec<u8> = (0..self.width * self.height * channels)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((at / channels % self.width * 3 + at / channels / self.width * 2) as u8)
                    ^ (state >> 29) as u8
            })
            .collect();
        // SAFETY: an instance of its own, whose buffer is copied and freed; the pixels are as many as the size says.
        unsafe {
            let turbo = tj3Init(TJINIT_TJINIT_COMPRESS as c_int);
            assert_eq!(tj3Set(turbo, TJPARAM_TJPARAM_QUALITY as c_int, 90), 0);
            assert_eq!(tj3Set(turbo, TJPARAM_TJPARAM_SUBSAMP as c_int, self.subsampling as c_int), 0);
            for (parameter, value) in self.parameters {
                assert_eq!(tj3Set(turbo, *parameter as c_int, *value), 0);
            }
            let (mut to, mut length) = (std::ptr::null_mut(), 0);
            let code = tj3Compress8(
                turbo,
                pixels.as_ptr(),
                self.width,
                0,
                self.height,
                self.pixels as c_int,
                &mut to,
                &mut length,
            );
            assert_eq!(code, 0);
            let bytes = std::slice::from_raw_parts(to, length as usize).to_vec();
            tj3Free(to.cast());
            tj3Destroy(turbo);
            bytes
        }
    }
}

/// RGB by libjpeg-turbo's plain decoding.
pub(crate) fn decoded(file: &[u8]) -> Vec<u8> {
    // SAFETY: an instance of its own, and room for as many pixels as the header says.
    unsafe {
        let turbo = tj3Init(TJINIT_TJINIT_DECOMPRESS as c_int);
        assert_eq!(tj3DecompressHeader(turbo, file.as_ptr(), file.len() as size_t), 0);
        let side = |parameter| tj3Get(turbo, parameter as c_int) as usize;
        let mut pixels = vec![0; side(TJPARAM_TJPARAM_JPEGWIDTH) * side(TJPARAM_TJPARAM_JPEGHEIGHT) * 3];
        let code = tj3Decompress8(
            turbo,
            file.as_ptr(),
            file.len() as size_t,
            pixels.as_mut_ptr(),
            0,
            TJPF_TJPF_RGB as c_int,
        );
        assert_eq!(code, 0);
        tj3Destroy(turbo);
        pixels
    }
}

/// The same file with an end marker cut off, and all after it.
pub(crate) fn cut(file: &[u8]) -> Vec<u8> {
    file[..file.len() - file.len() / 4].to_vec()
}
