"""A framework that is not ours: takes arrays by DLPack's ABI, and works on them on streams of its own through the driver.

All by ctypes, from dlpack.h and cuda.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
from simulator import load

NON_BLOCKING = 1
RELAXED = 2
PAGE_LOCKED = 0


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
# A capsule keeps the pointer that it is given.
_USED = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}


class Taken:
    """A tensor out of a capsule, let go by `release()` and never by itself."""

    def __init__(self, capsule: Any) -> None:
        name = _get_name(capsule)
        layout = ManagedVersioned if name == b"dltensor_versioned" else Managed
        self._managed = layout.from_address(_get_pointer(capsule, name))
        _set_name(capsule, _USED[name])
        self.versioned = layout is ManagedVersioned
        self.tensor: Tensor = self._managed.tensor
        self.address: int = (self.tensor.data or 0) + self.tensor.byte_offset
        self.shape = tuple(self.tensor.shape[: self.tensor.ndim])
        self.bytes = self.tensor.bits // 8
        for size in self.shape:
            self.bytes *= size

    def release(self, *, with_gil: bool = False) -> None:
        """Calls the deleter: without the interpreter's lock, or with it."""
        kind = ctypes.PYFUNCTYPE if with_gil else ctypes.CFUNCTYPE
        kind(None, ctypes.c_void_p)(self._managed.deleter)(ctypes.addressof(self._managed))


@contextmanager
def as_before() -> Iterator[None]:
    """The calling thread's context and capture mode are afterwards what they were, as the driver tells them."""
    before = _thread_state()
    yield
    assert _thread_state() == before


def _thread_state() -> tuple[int | None, int]:
    library, context, mode = load(), ctypes.c_void_p(), ctypes.c_int(RELAXED)
    assert library.cuCtxGetCurrent(ctypes.byref(context)) == 0
    # The mode can be asked for only by setting another.
    assert library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    found = mode.value
    assert library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    return context.value, found


class Consumer:
    """Streams, pinned memory and copies in the primary context of a device."""

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.library = load()
        self._streams: list[int] = []
        self._pinned: list[int] = []
        self._context = ctypes.c_void_p()

    def call(self, name: str, *arguments: Any) -> None:
        """A function of the driver, which must succeed. Integers go as 64 bits."""
        code = self.try_call(name, *arguments)
        assert code == 0, f"{name}: {code}"

    def try_call(self, name: str, *arguments: Any) -> int:
        """As `call`; the driver's code."""
        converted = [ctypes.c_uint64(each) if isinstance(each, int) else each for each in arguments]
        return getattr(self.library, name)(*converted)

    def stream(self, *, blocking: bool = False) -> int:
        """A new stream."""
        made = ctypes.c_uint64()
        self.call("cuStreamCreate", ctypes.byref(made), 0 if blocking else NON_BLOCKING)
        self._streams.append(made.value)
        return made.value

    def destroy(self, stream: int) -> None:
        """Ends a stream."""
        self._streams.remove(stream)
        self.call("cuStreamDestroy_v2", stream)

    def pinned(self, size: int) -> int:
        """New host memory for copies."""
        made = ctypes.c_uint64()
        self.call("cuMemHostAlloc", ctypes.byref(made), max(1, size), PAGE_LOCKED)
        self._pinned.append(made.value)
        return made.value

    def copy_out(self, address: int, size: int, stream: int) -> int:
        """Starts to copy a device's bytes to host memory; where they will be."""
        to = self.pinned(size)
        self.call("cuMemcpyDtoHAsync_v2", to, address, size, stream)
        return to

    def own_copies(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Arrays, beside what they are to be, as they are once written to memory of the consumer's own on its stream."""
        stream = self.stream()
        read = []
        for array, wanted in pairs:
            own = ctypes.c_uint64()
            self.call("cuMemAlloc_v2", ctypes.byref(own), array.nbytes)
            array._write_to(own.value, stream)
            read.append((self.copy_out(own.value, array.nbytes, stream), own.value, np.ascontiguousarray(wanted)))
        self.wait(stream)
        for at, own_address, wanted in read:
            yield np.frombuffer(ctypes.string_at(at, wanted.nbytes), wanted.dtype).reshape(wanted.shape), wanted
            self.call("cuMemFree_v2", own_address)

    def fill(self, address: int, size: int, stream: int) -> None:
        """Starts to write over a device's bytes: the memory is the consumer's."""
        self.call("cuMemsetD8Async", address, 0x5A, size, stream)

    def capture(self, stream: int, mode: int) -> None:
        """Begins to capture a stream: 0 forbids unsafe calls to every thread, 1 to this one, 2 to none."""
        self.call("cuStreamBeginCapture_v2", stream, mode)

    def end_capture(self, stream: int) -> None:
        """The capture ends well; its graph is thrown away."""
        graph = ctypes.c_uint64()
        self.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self.call("cuGraphDestroy", graph.value)

    def follow(self, stream: int, first: int) -> None:
        """What is submitted to a stream from now on waits for what another has now."""
        event = ctypes.c_uint64()
        self.call("cuEventCreate", ctypes.byref(event), 2)
        self.call("cuEventRecord", event.value, first)
        self.call("cuStreamWaitEvent", stream, event.value, 0)
        self.call("cuEventDestroy_v2", event.value)

    def wait(self, stream: int) -> None:
        """Until a stream has done everything."""
        self.call("cuStreamSynchronize", stream)

    def wait_for_all(self) -> None:
        """Until the device has done everything."""
        self.call("cuCtxSynchronize")

    def bytes_of(self, array: Any, stream: int) -> bytes:
        """An array's bytes, over a stream that the array waits on; let go before the copy is done."""
        taken = Taken(array.__dlpack__(stream=stream, max_version=(1, 0)))
        at = self.copy_out(taken.address, taken.bytes, stream) if taken.bytes else 0
        taken.release()
        self.wait(stream)
        return ctypes.string_at(at, taken.bytes) if taken.bytes else b""

    def forget(self, at: int) -> None:
        """Frees pinned memory."""
        self._pinned.remove(at)
        self.call("cuMemFreeHost", at)

    def __enter__(self) -> Consumer:
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self.device)
        self.call("cuCtxPushCurrent_v2", self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait_for_all()
        for stream in list(self._streams):
            self.try_call("cuStreamDestroy_v2", stream)
        for at in list(self._pinned):
            self.try_call("cuMemFreeHost", at)
        popped = ctypes.c_void_p()
        self.try_call("cuCtxPopCurrent_v2", ctypes.byref(popped))
        self.try_call("cuDevicePrimaryCtxRelease_v2", self.device)
