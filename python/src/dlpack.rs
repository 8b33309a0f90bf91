//! DLPack: an array's memory handed to torch, numpy, jax and others without a copy.
//!
//! The structs below are the ABI of dlpack.h 1.0. A capsule owns one `Exported`; whoever consumes it calls the deleter, on
//! any thread, with or without the interpreter lock, also after the loader or the interpreter has ended. So the deleter is
//! pure Rust, touches no Python object, and never unwinds. In a forked child it frees the little box and leaves the array
//! alone (`fork.rs`).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use forebay_gpu::mutant::{self, Mutant};
use forebay_loader::dtype::DType;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::fork::Owned;

/// kDLCPU, device 0.
pub(crate) const CPU: (i32, i32) = (1, 0);

const LEGACY: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
/// DLPACK_FLAG_BITMASK_IS_COPIED
const IS_COPIED: u64 = 1 << 1;

#[repr(C)]
struct Device {
    kind: i32,
    number: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// DLManagedTensor.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// DLManagedTensorVersioned.
#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// What a capsule points to, first, and all that it points to in turn.
#[repr(C)]
struct Exported<M, K> {
    managed: M,
    shape: Box<[i64]>,
    strides: Box<[i64]>,
    /// What keeps the memory where it is, and the consumer's.
    keep: Owned<K>,
}

/// Memory to be handed over.
pub(crate) struct Offer<'a, K> {
    /// First byte, as the device counts.
    pub(crate) address: usize,
    /// DLPack's device type and number.
    pub(crate) device: (i32, i32),
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// In elements.
    pub(crate) strides: &'a [usize],
    /// It was copied for this consumer.
    pub(crate) copied: bool,
    /// Dropped when the consumer lets go.
    pub(crate) keep: K,
}

/// Refuses what host memory can't answer: a stream to order against, another device.
pub(crate) fn check_request(stream: Option<i64>, device: Option<(i32, i32)>) -> PyResult<()> {
    // -1 says "no synchronisation", which holds here.
    if !matches!(stream, None | Some(-1)) {
        return Err(PyBufferError::new_err(format!(
            "stream={stream:?}: host memory has no stream; pass None"
        )));
    }
    match device {
        None | Some(CPU) => Ok(()),
        Some(device) => Err(PyBufferError::new_err(format!(
            "dl_device={device:?}: this array is in host memory, {CPU:?}; move it after the exchange"
        ))),
    }
}

/// A capsule over memory: versioned where the consumer knows version 1, the older layout otherwise.
pub(crate) fn capsule<'py, K: Send + 'static>(
    py: Python<'py>,
    offer: Offer<'_, K>,
    max_version: Option<(u32, u32)>,
) -> PyResult<Bound<'py, PyAny>> {
    if max_version.is_some_and(|(major, _)| major >= 1) {
        let flags = if offer.copied { IS_COPIED } else { 0 };
        let exported = export(offer, |tensor| ManagedVersioned {
            major: 1,
            minor: 0,
            context: std::ptr::null_mut(),
            deleter: Some(delete::<ManagedVersioned, K>),
            flags,
            tensor,
        });
        // SAFETY: `exported` is a fresh box whose first field is the struct that the name promises.
        return unsafe {
            new_capsule(py, exported.cast(), VERSIONED, drop_unconsumed::<ManagedVersioned, K>)
        };
    }
    let exported = export(offer, |tensor| Managed {
        tensor,
        context: std::ptr::null_mut(),
        deleter: Some(delete::<Managed, K>),
    });
    // SAFETY: as above.
    unsafe { new_capsule(py, exported.cast(), LEGACY, drop_unconsumed::<Managed, K>) }
}

/// Boxes what keeps the memory with the struct that describes it. The boxes' contents don't move when the box does, so the pointers
/// in `tensor` stay right.
fn export<M, K>(offer: Offer<'_, K>, describe: impl FnOnce(Tensor) -> M) -> *mut Exported<M, K> {
    let sizes = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Box<[i64]>>();
    let (mut shape, mut strides) = (sizes(offer.shape), sizes(offer.strides));
    let (code, bits) = offer.dtype.dlpack();
    let tensor = Tensor {
        data: std::ptr::with_exposed_provenance_mut(offer.address),
        device: Device { kind: offer.device.0, number: offer.device.1 },
        ndim: shape.len() as i32,
        dtype: DataType { code, bits, lanes: 1 },
        shape: shape.as_mut_ptr(),
        strides: strides.as_mut_ptr(),
        byte_offset: 0,
    };
    Box::into_raw(Box::new(Exported {
        managed: describe(tensor),
        shape,
        strides,
        keep: Owned::new(offer.keep),
    }))
}

/// # Safety
/// `exported` is the box that a capsule called `name` owns, and `destructor` frees it.
unsafe fn new_capsule<'py>(
    py: Python<'py>,
    exported: *mut c_void,
    name: &'static CStr,
    destructor: unsafe extern "C" fn(*mut ffi::PyObject),
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointer is not null, the name is static, and the result is a new reference or null with an exception.
    unsafe {
        let capsule = ffi::PyCapsule_New(exported, name.as_ptr(), Some(destructor));
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// The deleter in the struct: called once by whoever took the tensor.
unsafe extern "C" fn delete<M, K>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // SAFETY: `managed` is the first field of the `Exported` that `export` boxed (repr(C)), and the protocol calls the
    // deleter once.
    let exported = unsafe { Box::from_raw(managed.cast::<Exported<M, K>>()) };
    // A panic must not unwind into a foreign caller; there is nobody to tell.
    let _unheard = catch_unwind(AssertUnwindSafe(move || drop(exported)));
}

/// The capsule's destructor: frees a tensor that nobody took. A consumer renames the capsule when it takes it.
unsafe extern "C" fn drop_unconsumed<M: Named, K>(capsule: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter with the capsule, whose pointer is ours for as long as it has our name.
    unsafe {
        if mutant::is(Mutant::CapsuleEarly) {
            delete::<M, K>(ffi::PyCapsule_GetPointer(capsule, ffi::PyCapsule_GetName(capsule)).cast());
        } else if ffi::PyCapsule_IsValid(capsule, M::NAME.as_ptr()) == 1 {
            delete::<M, K>(ffi::PyCapsule_GetPointer(capsule, M::NAME.as_ptr()).cast());
        }
    }
}

/// The capsule's name while its tensor has not been taken.
trait Named {
    const NAME: &'static CStr;
}

impl Named for Managed {
    const NAME: &'static CStr = LEGACY;
}

impl Named for ManagedVersioned {
    const NAME: &'static CStr = VERSIONED;
}
