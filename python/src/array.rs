//! `forebay.Array`: memory of the loader, seen by Python without a copy.
//!
//! An array keeps its bytes for as long as it, or anything that it was exported to (DLPack, the buffer protocol,
//! `__array_interface__`), is alive; then they go back to the loader. It may outlive the loader. The bytes are the
//! consumer's alone and may be written to.

use forebay_cache::Lease;
use forebay_loader::batch::Array as Data;
use parking_lot::Mutex;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::dlpack::Offer;
use crate::error::check;
use crate::fork::Owned;
use crate::{buffer, dlpack};

/// Shape, dtype and address of an array, and DLPack. `Array` adds the buffer protocol (see `buffer.rs`).
#[pyclass(frozen, subclass, name = "_ArrayBase", module = "forebay._forebay")]
pub(crate) struct ArrayBase {
    data: Owned<Data>,
}

/// Carries an array from Rust into `Array(...)`; Python code can't make one.
#[pyclass(frozen, name = "_Handle", module = "forebay._forebay")]
pub(crate) struct Handle(Mutex<Option<Owned<Data>>>);

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The class `Array`, made once.
pub(crate) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let class = CLASS.get_or_try_init(py, || buffer::class_with_buffer(&py.get_type::<ArrayBase>()))?;
    Ok(class.bind(py).clone())
}

/// A Python `Array` of these bytes.
pub(crate) fn wrap(py: Python<'_>, data: Data) -> PyResult<Bound<'_, PyAny>> {
    class(py)?.call1((Handle(Mutex::new(Some(Owned::new(data)))),))
}

impl ArrayBase {
    /// The bytes, or `ForkError` in a forked child, where they are not mapped.
    pub(crate) fn data(&self, py: Python<'_>) -> PyResult<&Data> {
        check(py, self.data.get())
    }
}

#[pymethods]
impl ArrayBase {
    #[new]
    fn new(handle: &Handle) -> PyResult<Self> {
        let data = handle.0.lock().take();
        data.map(|data| Self { data }).ok_or_else(|| PyTypeError::new_err("arrays are made by a loader"))
    }

    /// Sizes of the dimensions, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.data(py)?.shape)
    }

    /// numpy's name of the elements' type, such as "uint8"; "bfloat16", which numpy doesn't have.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.data(py)?.dtype.name())
    }

    /// Number of dimensions.
    #[getter]
    fn ndim(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.data(py)?.shape.len())
    }

    /// Number of bytes.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.data(py)?.data.len())
    }

    /// Where the array is, for numpy and others that read this protocol. There is none of bfloat16.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let data = self.data(py)?;
        let Some(typestr) = data.dtype.typestr() else {
            return Err(PyAttributeError::new_err(not_in_numpy(data)));
        };
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, &data.shape)?)?;
        interface.set_item("typestr", typestr)?;
        if !data.is_c_contiguous() {
            interface.set_item("strides", PyTuple::new(py, data.byte_strides())?)?;
        }
        interface.set_item("data", (data.data.as_ptr() as usize, false))?;
        Ok(interface)
    }

    /// A numpy array over the same memory; a copy only where `dtype` or `copy=True` asks for one.
    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        slf: &Bound<'py, Self>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = Self::numpy(slf)?;
        let py = slf.py();
        let wanted = match &dtype {
            Some(dtype) => py.import("numpy")?.call_method1("dtype", (dtype,))?,
            None => array.getattr("dtype")?,
        };
        let same = wanted.eq(array.getattr("dtype")?)?;
        match copy {
            Some(false) if !same => Err(PyValueError::new_err(format!(
                "{} as {wanted} needs a copy, and copy=False forbids it",
                slf.get().data(py)?.dtype.name()
            ))),
            Some(true) => array.call_method1("astype", (wanted,)),
            _ if same => Ok(array),
            _ => array.call_method1("astype", (wanted,)),
        }
    }

    /// A numpy array over the same memory.
    fn numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let data = slf.get().data(slf.py())?;
        if data.dtype.numpy_code().is_none() {
            return Err(PyTypeError::new_err(not_in_numpy(data)));
        }
        slf.py().import("numpy")?.call_method1("asarray", (slf,))
    }

    /// A DLPack capsule over the same memory: `torch.from_dlpack(array)` calls this.
    #[pyo3(signature = (*, stream = None, max_version = None, dl_device = None, copy = None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        dlpack::check_request(stream, dl_device)?;
        let data = self.data(py)?;
        let copied = copy == Some(true);
        let keep = if copied { copy_of(&data.data) } else { data.data.clone() };
        let offer = Offer {
            address: keep.as_ptr().expose_provenance(),
            device: dlpack::CPU,
            dtype: data.dtype,
            shape: &data.shape,
            strides: &data.strides,
            copied,
            keep,
        };
        dlpack::capsule(py, offer, max_version)
    }

    /// (device type, device number): (1, 0), host memory.
    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let first = self.data(py)?.shape.first();
        first.copied().ok_or_else(|| PyTypeError::new_err("an array without dimensions has no len()"))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let data = self.data(py)?;
        Ok(format!(
            "forebay.Array(shape={}, dtype={})",
            PyTuple::new(py, &data.shape)?.repr()?,
            data.dtype.name()
        ))
    }
}

fn not_in_numpy(data: &Data) -> String {
    format!(
        "numpy has no {}: take the array by DLPack (torch.from_dlpack, jax.dlpack.from_dlpack), or give the field Cast(\"float32\")",
        data.dtype
    )
}

/// The same bytes on the heap, aligned as DLPack asks for (64).
#[allow(unsafe_code)]
pub(crate) fn copy_of(bytes: &[u8]) -> Lease {
    #[repr(align(64))]
    #[derive(Clone)]
    struct Line([u8; 64]);

    let mut lines: Vec<Line> = bytes
        .chunks(64)
        .map(|chunk| {
            let mut line = Line([0; 64]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        })
        .collect();
    let start =
        std::ptr::NonNull::new(lines.as_mut_ptr().cast::<u8>()).unwrap_or(std::ptr::NonNull::dangling());
    // SAFETY: lines of 64 bytes without padding follow each other, so `bytes.len()` bytes are initialised from `start` on;
    // the vector is never touched again, so they stay where they are until the Arc drops it.
    unsafe { Lease::from_raw(std::sync::Arc::new(lines), start, bytes.len()) }
}
