//! The buffer protocol for `Array`, from Python 3.10 on in one wheel.
//!
//! The limited API has the protocol only since 3.11, so PyO3 offers none to an abi3-py310 module. The interpreter itself has
//! taken these two slots in `PyType_FromSpec` since 3.9, `Py_buffer` has had one layout since 3.0, and 3.11 froze both as
//! they were. So the class is made by hand: a subclass of the PyO3 class that adds nothing but the two slots. The test suite runs
//! it on the oldest interpreter as on the newest.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use forebay_loader::dtype::DType;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::array::ArrayBase;

/// `Py_buffer` of the stable ABI.
#[repr(C)]
struct PyBuffer {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: ffi::Py_ssize_t,
    itemsize: ffi::Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    suboffsets: *mut ffi::Py_ssize_t,
    internal: *mut c_void,
}

// 80 bytes on every 64-bit platform; a difference here would be silent corruption.
const _: () = assert!(size_of::<usize>() != 8 || offset_of!(PyBuffer, internal) == 72);

const GETBUFFER: c_int = 1;
const RELEASEBUFFER: c_int = 2;
const FORMAT: c_int = 0x04;
const ND: c_int = 0x08;
const STRIDES: c_int = 0x10 | ND;
const C_CONTIGUOUS: c_int = 0x20 | STRIDES;
const F_CONTIGUOUS: c_int = 0x40 | STRIDES;
const ANY_CONTIGUOUS: c_int = 0x80 | STRIDES;

/// What a view's pointers point to; `internal` owns it.
struct View {
    shape: Box<[ffi::Py_ssize_t]>,
    strides: Box<[ffi::Py_ssize_t]>,
    format: CString,
}

const DOC: &CStr = c"An array of a batch, in memory of the loader: C-contiguous but for Layout(\"channels_last\"), writable, never copied.\n\n\
Hand it to torch.from_dlpack, numpy.from_dlpack, numpy.asarray or memoryview. Its memory goes back to the loader when the last \
of them lets go; it may outlive the loader.";

/// `Array`: `base` with the buffer protocol.
pub(crate) fn class_with_buffer(base: &Bound<'_, PyType>) -> PyResult<Py<PyType>> {
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: GETBUFFER, pfunc: get as *mut c_void },
        ffi::PyType_Slot { slot: RELEASEBUFFER, pfunc: release as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_doc, pfunc: DOC.as_ptr().cast_mut().cast() },
        ffi::PyType_Slot { slot: 0, pfunc: null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        // Static: Python 3.10 keeps the pointer.
        name: c"forebay._forebay.Array".as_ptr(),
        // 0: as large as the base.
        basicsize: 0,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as _,
        slots: slots.as_mut_ptr(),
    };
    let bases = PyTuple::new(py, [base])?;
    // SAFETY: spec and slots live through the call, which copies them; name and doc are static; the two functions have the
    // slots' signatures. The result is a new reference to a type, or null with an exception.
    let class = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpecWithBases(&mut spec, bases.as_ptr()))?
    };
    Ok(class.cast_into::<PyType>()?.unbind())
}

/// bf_getbuffer.
unsafe extern "C" fn get(slf: *mut ffi::PyObject, view: *mut PyBuffer, flags: c_int) -> c_int {
    // SAFETY: the interpreter calls this attached, with an instance of the class and a buffer to fill (null only from
    // callers that break the protocol, as CPython's own code says).
    let filled = catch_unwind(AssertUnwindSafe(|| unsafe {
        Python::attach(|py| {
            let Some(view) = view.as_mut() else {
                PyBufferError::new_err("a view of null was asked for").restore(py);
                return false;
            };
            view.obj = null_mut();
            let slf = Bound::from_borrowed_ptr(py, slf);
            let filled = fill(&slf, view, flags);
            filled.map_err(|error| error.restore(py)).is_ok()
        })
    }));
    if matches!(filled, Ok(true)) { 0 } else { -1 }
}

fn fill(slf: &Bound<'_, PyAny>, view: &mut PyBuffer, flags: c_int) -> PyResult<()> {
    let array = slf.cast::<ArrayBase>()?.get().data(slf.py())?;
    let (in_c_order, in_fortran_order) = (array.is_c_contiguous(), array.is_fortran_contiguous());
    let asked = |flag: c_int| flags & flag == flag;
    if asked(F_CONTIGUOUS) && !in_fortran_order {
        return Err(PyBufferError::new_err(
            "the array is not Fortran-contiguous: it is C-contiguous, or channels_last",
        ));
    }
    // Who asks for no strides counts on C order.
    let in_order = asked(F_CONTIGUOUS) || asked(ANY_CONTIGUOUS) && in_fortran_order;
    let any_order = asked(STRIDES) && !asked(C_CONTIGUOUS) && !asked(ANY_CONTIGUOUS);
    if !(in_c_order || in_order || any_order) {
        return Err(PyBufferError::new_err(
            "the array is in channels_last order, not C-contiguous; ask for strides, or use Layout(\"NCHW\")",
        ));
    }
    let format = if asked(FORMAT) { format_of(array.dtype)? } else { CString::default() };
    let shape = array.shape.iter().map(|&size| size as ffi::Py_ssize_t).collect();
    let strides = array.byte_strides().map(|stride| stride as ffi::Py_ssize_t).collect();
    let whole = Box::into_raw(Box::new(View { shape, strides, format }));
    // SAFETY: just made, and freed only by `release`; its boxes don't move while the view is out.
    let parts = unsafe { &mut *whole };
    let shaped = asked(ND);
    *view = PyBuffer {
        buf: array.data.as_ptr().cast_mut().cast(),
        obj: slf.clone().into_ptr(),
        len: array.data.len() as ffi::Py_ssize_t,
        itemsize: array.dtype.size() as ffi::Py_ssize_t,
        readonly: 0,
        // Without a shape the consumer asked for plain bytes: one dimension.
        ndim: if shaped { parts.shape.len() as c_int } else { 1 },
        format: if asked(FORMAT) { parts.format.as_ptr().cast_mut() } else { null_mut() },
        shape: if shaped { parts.shape.as_mut_ptr() } else { null_mut() },
        strides: if asked(STRIDES) { parts.strides.as_mut_ptr() } else { null_mut() },
        suboffsets: null_mut(),
        internal: whole.cast(),
    };
    Ok(())
}

/// bf_releasebuffer. The interpreter drops the view's reference to the array itself.
unsafe extern "C" fn release(_: *mut ffi::PyObject, view: *mut PyBuffer) {
    // SAFETY: called once per view that `get` filled, whose `internal` is the box made there.
    drop(unsafe { Box::from_raw((*view).internal.cast::<View>()) });
}

/// The struct module's character, and PEP 3118's for complex numbers, which numpy reads.
fn format_of(dtype: DType) -> PyResult<CString> {
    let format = match dtype {
        DType::C64 => "Zf",
        DType::C128 => "Zd",
        other => other.buffer_format().ok_or_else(|| {
            PyBufferError::new_err(format!("the buffer protocol has no {other}: take the array by DLPack"))
        })?,
    };
    Ok(CString::new(format)?)
}
