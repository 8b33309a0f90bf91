//! `forebay.DeviceArray`: memory of a device, handed to frameworks without a copy and without waiting.
//!
//! The consumer's stream waits for the batch, not the CPU. What the consumer was given comes back through the deleter of its capsule, on whatever
//! thread, and is used again behind what its stream has queued by then. Whatever is asked wrongly is a BufferError: torch takes a TypeError for an
//! older protocol and asks again without the stream, which would hand over memory that is not filled yet.

use forebay_gpu::{Address, RawStream};
use forebay_loader::batch::DeviceArray as Data;
use forebay_loader::device::Consumer;
use forebay_loader::dtype::DType;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::array::copy_of;
use crate::dlpack::{self, Offer};
use crate::error::{check, raise};
use crate::fork::Owned;

/// An array of a batch in the memory of a device, never copied: hand it to torch.from_dlpack, cupy.from_dlpack, jax.dlpack.from_dlpack.
///
/// Its memory goes back to the loader when the last of them lets go, behind the work that they have queued on the stream that they took it on;
/// it may outlive the loader. Use on another stream is to be said: record_stream(stream).
#[pyclass(frozen, module = "forebay._forebay")]
pub(crate) struct DeviceArray {
    data: Owned<Data>,
}

impl DeviceArray {
    pub(crate) fn new(data: Data) -> Self {
        Self { data: Owned::new(data) }
    }

    fn data(&self, py: Python<'_>) -> PyResult<&Data> {
        check(py, self.data.get())
    }
}

/// A stream as DLPack and the array API standard write it for CUDA: None and 1 are the legacy default stream, 2 is the thread's, -1 asks for no
/// waiting, 0 says nothing.
fn consumer(stream: Option<&Bound<'_, PyAny>>) -> PyResult<Consumer> {
    let Some(stream) = stream.filter(|stream| !stream.is_none()) else {
        return Ok(Consumer::Stream(RawStream::LEGACY));
    };
    let wrong = |what: &str| PyBufferError::new_err(format!("stream={stream:?}: {what}"));
    match stream.extract::<i128>() {
        Ok(-1) => Ok(Consumer::Unknown),
        Ok(0) => Err(wrong("0 may be either default stream; pass 1 for the legacy one, 2 for the thread's")),
        Ok(handle) => u64::try_from(handle)
            .map(|handle| Consumer::Stream(RawStream(handle)))
            .map_err(|_| wrong("no stream has a negative handle, and -1 asks for no waiting")),
        Err(_) => Err(wrong("pass the stream's handle as an int, None for the legacy default stream, or -1")),
    }
}

/// The stream that somebody names: an object of a framework's, whose 0 is the legacy default stream, or a handle.
fn named_stream(stream: &Bound<'_, PyAny>) -> PyResult<RawStream> {
    let framework = match stream.getattr("__cuda_stream__") {
        Ok(protocol) => Some(protocol.call0()?.get_item(1)?),
        Err(_) => ["cuda_stream", "ptr"].iter().find_map(|name| stream.getattr(*name).ok()),
    };
    if let Some(handle) = framework {
        let handle: u64 = handle.extract()?;
        return Ok(if handle == 0 { RawStream::LEGACY } else { RawStream(handle) });
    }
    match consumer(Some(stream)) {
        Ok(Consumer::Stream(stream)) => Ok(stream),
        Ok(Consumer::Unknown) => Err(PyValueError::new_err("record_stream: -1 names no stream")),
        Err(error) => Err(PyValueError::new_err(error.value(stream.py()).to_string())),
    }
}

/// A pair of ints, or none.
fn pair<T: for<'a, 'py> FromPyObject<'a, 'py>>(
    name: &str,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<(T, T)>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    let wrong = || PyBufferError::new_err(format!("{name}={value:?}: give a pair of ints"));
    let first = value.get_item(0).and_then(|item| item.extract().map_err(Into::into));
    let second = value.get_item(1).and_then(|item| item.extract().map_err(Into::into));
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(Some((first, second))),
        _ => Err(wrong()),
    }
}

#[pymethods]
impl DeviceArray {
    /// Sizes of the dimensions, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.data(py)?.shape)
    }

    /// numpy's name of the elements' type, such as "uint8".
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
    fn nbytes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.data(py)?.bytes())
    }

    /// Elements from one index of a dimension to the next.
    #[getter]
    fn strides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.data(py)?.strides)
    }

    /// As torch writes it: "cuda:0".
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<String> {
        let (_, number) = self.place(py)?;
        Ok(format!("cuda:{number}"))
    }

    /// The memory is not used again before what is queued on this stream when the array is let go. A stream of torch or CuPy, one with
    /// `__cuda_stream__`, or its handle.
    fn record_stream(&self, py: Python<'_>, stream: &Bound<'_, PyAny>) -> PyResult<()> {
        let stream = named_stream(stream)?;
        let memory = self.data(py)?.memory.clone();
        check(py, py.detach(move || memory.record_stream(stream)))
    }

    /// Address, shape and strides for CuPy, Numba and others, version 3. The legacy default stream waits for the array.
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let data = self.data(py)?;
        let Some(typestr) = data.dtype.typestr() else {
            let what = format!("no __cuda_array_interface__ of {}: take the array by DLPack", data.dtype);
            return Err(pyo3::exceptions::PyAttributeError::new_err(what));
        };
        let memory = data.memory.clone();
        check(py, py.detach(move || memory.expose()))?;
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, &data.shape)?)?;
        interface.set_item("typestr", typestr)?;
        let strides = data.strides.iter().map(|stride| stride * data.dtype.size());
        interface.set_item("strides", PyTuple::new(py, strides.collect::<Vec<_>>())?)?;
        interface.set_item("data", (data.address(), false))?;
        interface.set_item("stream", RawStream::LEGACY.0)?;
        Ok(interface)
    }

    /// A DLPack capsule over the same memory, on which `stream` may work at once: it waits for the batch, the CPU doesn't.
    ///
    /// `stream`: the handle of the consumer's stream; None and 1 are the legacy default stream, 2 the thread's, -1 asks for no waiting.
    /// `dl_device=(1, 0)` copies to host memory and waits; then `stream` must be None. Whatever is asked wrongly, or of a stream that is being
    /// captured, is a BufferError.
    #[pyo3(signature = (*, stream = None, max_version = None, dl_device = None, copy = None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<&Bound<'py, PyAny>>,
        dl_device: Option<&Bound<'py, PyAny>>,
        copy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let data = self.data(py)?;
        let max_version = pair("max_version", max_version)?;
        let here = self.place(py)?;
        let device = pair("dl_device", dl_device)?.unwrap_or(here);
        let copy = match copy.filter(|copy| !copy.is_none()) {
            None => None,
            Some(copy) => {
                Some(copy.is_truthy().map_err(|_| PyBufferError::new_err("copy: give True, False or None"))?)
            }
        };
        if device == dlpack::CPU {
            if stream.is_some_and(|stream| !stream.is_none()) {
                return Err(PyBufferError::new_err(
                    "dl_device is host memory, which has no stream: pass stream=None",
                ));
            }
            if copy == Some(false) {
                return Err(PyBufferError::new_err(
                    "going to host memory takes a copy, and copy=False forbids it",
                ));
            }
            let (memory, part) = (data.memory.clone(), data.offset..data.offset + data.bytes());
            let keep = check(py, py.detach(move || memory.to_host(part).map(|bytes| copy_of(&bytes))))?;
            return offer(py, data, keep.as_ptr().expose_provenance(), dlpack::CPU, true, keep, max_version);
        }
        if device != here {
            return Err(PyBufferError::new_err(format!(
                "dl_device={device:?}: this array is on {here:?}, and goes to host memory, (1, 0), but to no other device"
            )));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err(
                "copy=True: a copy on the device is the consumer's to make, on its own stream",
            ));
        }
        let (memory, consumer) = (data.memory.clone(), consumer(stream)?);
        let export = py.detach(move || memory.export(consumer)).map_err(|error| buffer_error(py, &error))?;
        offer(py, data, data.address() as usize, here, false, export, max_version)
    }

    /// Writes the finished array to memory of the caller's on the same device, on a stream that waits for it: for `forebay.torch`.
    ///
    /// `address` has room for `nbytes` bytes, aligned for the dtype, laid out as `shape` and `strides` say.
    #[allow(unsafe_code)]
    fn _write_to(&self, py: Python<'_>, address: u64, stream: u64) -> PyResult<()> {
        let data = self.data(py)?.clone();
        // Frameworks write the legacy default stream as 0.
        let stream = if stream == 0 { RawStream::LEGACY } else { RawStream(stream) };
        // SAFETY: promised by the caller, which is the package itself.
        let written = py.detach(move || unsafe { data.write_to(Address(address), stream) });
        check(py, written)
    }

    /// A part of its bytes as an array over the same memory, C-contiguous: for `forebay.weights`.
    fn _part(&self, py: Python<'_>, offset: u64, dtype: &str, shape: Vec<usize>) -> PyResult<Self> {
        let wrong = || {
            PyValueError::new_err(format!("{dtype} {shape:?} from byte {offset} on is no part of the array"))
        };
        let kind = DType::ALL.into_iter().find(|kind| kind.name() == dtype).ok_or_else(wrong)?;
        let part = self.data(py)?.part(offset, kind, shape.clone()).ok_or_else(wrong)?;
        Ok(Self::new(part))
    }

    /// (device type, device number): (2, 0) is the first CUDA device.
    fn __dlpack_device__(&self, py: Python<'_>) -> PyResult<(i32, i32)> {
        self.place(py)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let first = self.data(py)?.shape.first();
        first.copied().ok_or_else(|| PyTypeError::new_err("an array without dimensions has no len()"))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let data = self.data(py)?;
        let shape = PyTuple::new(py, &data.shape)?.repr()?;
        Ok(format!("forebay.DeviceArray(shape={shape}, dtype={}, device={})", data.dtype, self.device(py)?))
    }

    /// numpy works on host memory: a TypeError that says how to get there.
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn __array__(
        &self,
        py: Python<'_>,
        _arguments: &Bound<'_, PyTuple>,
        _keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        Err(PyTypeError::new_err(format!(
            "this array is on {}: numpy.from_dlpack(array, device=\"cpu\") copies it to host memory",
            self.device(py)?
        )))
    }
}

impl DeviceArray {
    fn place(&self, py: Python<'_>) -> PyResult<(i32, i32)> {
        let facts = self.data(py)?.memory.device().facts();
        Ok((facts.dlpack_type, facts.index))
    }
}

fn offer<'py, K: Send + 'static>(
    py: Python<'py>,
    data: &Data,
    address: usize,
    device: (i32, i32),
    copied: bool,
    keep: K,
    max_version: Option<(u32, u32)>,
) -> PyResult<Bound<'py, PyAny>> {
    let (dtype, shape, strides) = (data.dtype, &data.shape[..], &data.strides[..]);
    dlpack::capsule(py, Offer { address, device, dtype, shape, strides, copied, keep }, max_version)
}

/// The error as the protocol has it, with ours as its cause.
fn buffer_error(py: Python<'_>, error: &forebay_loader::Error) -> PyErr {
    let ours = raise(py, error);
    let theirs = PyBufferError::new_err(ours.value(py).to_string());
    theirs.set_cause(py, Some(ours));
    theirs
}

/// CUDA devices that this process sees, and why there are none where it sees none.
#[pyfunction]
pub(crate) fn count_devices(py: Python<'_>) -> (u32, Option<String>) {
    match py.detach(forebay_gpu::cuda::CudaDevice::count) {
        Ok(0) => (0, Some("the driver sees no device".into())),
        Ok(count) => (count, None),
        Err(error) => (0, Some(error.to_string())),
    }
}

/// Ends all use of devices, at exit: batches that are still held keep their memory until the process is gone.
#[pyfunction]
pub(crate) fn end_devices(py: Python<'_>) {
    py.detach(forebay_gpu::cuda::end);
}
