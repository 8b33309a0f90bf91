//! The part of nvJPEG's C interface that is used, as nvjpeg.h of 12.0.0.28, 12.4.0.76 and 13.3.2.43 declare it. Every enum there is a C int, and travels as
//! one: later versions know more values.

use std::ffi::{CStr, c_int, c_uint, c_void};

use cudarc::driver::sys::CUstream;

/// nvjpegHandle_t, nvjpegJpegState_t and nvjpegJpegStream_t: pointers to what the library keeps to itself.
pub(super) type Handle = *mut c_void;

/// nvjpegStatus_t
pub(super) mod status {
    pub(in super::super) const SUCCESS: i32 = 0;
    pub(in super::super) const INVALID_PARAMETER: i32 = 2;
    pub(in super::super) const BAD_JPEG: i32 = 3;
    pub(in super::super) const JPEG_NOT_SUPPORTED: i32 = 4;
    pub(in super::super) const ALLOCATOR_FAILURE: i32 = 5;
    pub(in super::super) const IMPLEMENTATION_NOT_SUPPORTED: i32 = 9;
    pub(in super::super) const INCOMPLETE_BITSTREAM: i32 = 10;

    /// As the header names it.
    pub(in super::super) fn name(code: i32) -> &'static str {
        const NAMES: [&str; 11] = [
            "NVJPEG_STATUS_SUCCESS",
            "NVJPEG_STATUS_NOT_INITIALIZED",
            "NVJPEG_STATUS_INVALID_PARAMETER",
            "NVJPEG_STATUS_BAD_JPEG",
            "NVJPEG_STATUS_JPEG_NOT_SUPPORTED",
            "NVJPEG_STATUS_ALLOCATOR_FAILURE",
            "NVJPEG_STATUS_EXECUTION_FAILED",
            "NVJPEG_STATUS_ARCH_MISMATCH",
            "NVJPEG_STATUS_INTERNAL_ERROR",
            "NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED",
            "NVJPEG_STATUS_INCOMPLETE_BITSTREAM",
        ];
        usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("an unknown status")
    }
}

/// nvjpegBackend_t
pub(super) mod backend {
    pub(in super::super) const DEFAULT: i32 = 0;
    pub(in super::super) const GPU_HYBRID: i32 = 2;
    pub(in super::super) const HARDWARE: i32 = 3;
}

/// NVJPEG_OUTPUT_RGBI of nvjpegOutputFormat_t: interleaved, in the first channel.
pub(super) const RGB_INTERLEAVED: c_int = 5;

/// NVJPEG_CSS_UNKNOWN of nvjpegChromaSubsampling_t.
pub(super) const UNKNOWN_SUBSAMPLING: c_int = -1;

/// NVJPEG_FLAGS_BITSTREAM_STRICT: an image that breaks JPEG's rules is an error. The CPU decides about those.
pub(super) const STRICT: c_uint = 1 << 2;

/// libraryPropertyType of library_types.h: the parts of a version.
pub(super) const VERSION: [c_int; 3] = [0, 1, 2];

/// nvjpegImage_t: where planes begin, and bytes from row to row.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Image {
    pub(super) channel: [*mut u8; 4],
    pub(super) pitch: [usize; 4],
}

/// tDevMallocV2 and tPinnedMallocV2: zero where the memory was had.
pub(super) type Allocate = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, usize, CUstream) -> c_int;
/// tDevFreeV2 and tPinnedFreeV2.
pub(super) type Free = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, CUstream) -> c_int;

/// nvjpegDevAllocatorV2_t and nvjpegPinnedAllocatorV2_t, which have the same fields.
#[repr(C)]
pub(super) struct Allocator {
    pub(super) allocate: Allocate,
    pub(super) free: Free,
    pub(super) context: *mut c_void,
}

// What the C compiler makes of the header on every 64-bit Linux.
const _: () = assert!(size_of::<Image>() == 64 && align_of::<Image>() == 8 && size_of::<Allocator>() == 24);

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal($($argument:ty),*);)*) => {
        /// The functions, looked up.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Functions {
            $($(#[$doc])* pub(super) $field: unsafe extern "C" fn($($argument),*) -> i32,)*
        }

        impl Functions {
            /// Looks all of them up; those that are missing otherwise.
            pub(super) fn find(symbol: impl Fn(&CStr) -> *mut c_void) -> Result<Self, Vec<&'static CStr>> {
                let missing: Vec<&CStr> = [$($symbol),*].into_iter().filter(|name| symbol(name).is_null()).collect();
                if !missing.is_empty() {
                    return Err(missing);
                }
                // SAFETY: none is null, and these are the functions' signatures.
                Ok(Self { $($field: unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> i32>(symbol($symbol))
                },)* })
            }
        }
    };
}

functions! {
    /// (backend, device allocator, pinned allocator, flags, to)
    create = c"nvjpegCreateExV2"(c_int, *mut Allocator, *mut Allocator, c_uint, *mut Handle);
    destroy = c"nvjpegDestroy"(Handle);
    /// (library, to)
    create_state = c"nvjpegJpegStateCreate"(Handle, *mut Handle);
    destroy_state = c"nvjpegJpegStateDestroy"(Handle);
    /// (library, to)
    create_parsed = c"nvjpegJpegStreamCreate"(Handle, *mut Handle);
    destroy_parsed = c"nvjpegJpegStreamDestroy"(Handle);
    /// (library, bytes, length, to)
    parse_header = c"nvjpegJpegStreamParseHeader"(Handle, *const u8, usize, Handle);
    /// (parsed, width, height)
    frame_of = c"nvjpegJpegStreamGetFrameDimensions"(Handle, *mut c_uint, *mut c_uint);
    subsampling_of = c"nvjpegJpegStreamGetChromaSubsampling"(Handle, *mut c_int);
    /// (library, parsed, to): zero where batches take it.
    supports = c"nvjpegDecodeBatchedSupported"(Handle, Handle, *mut c_int);
    /// (library, state, images, threads, format)
    prepare = c"nvjpegDecodeBatchedInitialize"(Handle, Handle, c_int, c_int, c_int);
    /// (library, state, images, lengths, targets, stream)
    decode = c"nvjpegDecodeBatched"(Handle, Handle, *const *const u8, *const usize, *mut Image, CUstream);
}

/// nvjpegGetProperty, which is looked up before the others: a library of another version may lack them.
pub(super) type GetProperty = unsafe extern "C" fn(c_int, *mut c_int) -> i32;
