//! The C side, as shim.h declares it.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;

// The shim calls libjpeg, which is inside the static library that this crate brings along.
use turbojpeg_sys as _;

/// forebay_jpeg.
#[repr(C)]
pub(super) struct Handle {
    _opaque: [u8; 0],
    _not_sync: PhantomData<*mut u8>,
}

/// forebay_jpeg_header.
#[repr(C)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: u32,
    pub(super) color: u32,
    pub(super) multiple_scans: u32,
    pub(super) lossless: u32,
    pub(super) precision: u32,
    pub(super) max_h_samp: u32,
    pub(super) max_v_samp: u32,
    pub(super) coefficient_bytes: u64,
    pub(super) data_offset: u64,
    pub(super) exif: *const u8,
    pub(super) exif_length: u64,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            width: 0,
            height: 0,
            components: 0,
            color: 0,
            multiple_scans: 0,
            lossless: 0,
            precision: 0,
            max_h_samp: 0,
            max_v_samp: 0,
            coefficient_bytes: 0,
            data_offset: 0,
            exif: std::ptr::null(),
            exif_length: 0,
        }
    }
}

/// forebay_jpeg_window.
#[repr(C)]
#[derive(Default)]
pub(super) struct Window {
    pub(super) denominator: u32,
    pub(super) cmyk: u32,
    pub(super) max_scans: u32,
    pub(super) max_memory: u64,
    pub(super) x: u32,
    pub(super) width: u32,
    pub(super) scaled_width: u32,
    pub(super) scaled_height: u32,
}

unsafe extern "C" {
    pub(super) fn forebay_jpeg_new(scan: *mut c_void) -> *mut Handle;
    pub(super) fn forebay_jpeg_free(jpeg: *mut Handle);
    pub(super) fn forebay_jpeg_read_header(
        jpeg: *mut Handle,
        data: *const u8,
        length: usize,
        header: *mut Header,
    ) -> c_int;
    pub(super) fn forebay_jpeg_start(jpeg: *mut Handle, window: *mut Window) -> c_int;
    pub(super) fn forebay_jpeg_rows(
        jpeg: *mut Handle,
        skip: u32,
        rows: u32,
        out: *mut u8,
        stride: usize,
    ) -> c_int;
    pub(super) fn forebay_jpeg_coefficients(jpeg: *mut Handle) -> c_int;
    pub(super) fn forebay_jpeg_abort(jpeg: *mut Handle);
    pub(super) fn forebay_jpeg_message(jpeg: *const Handle) -> *const c_char;
    pub(super) fn forebay_jpeg_offset(jpeg: *const Handle) -> usize;
}
