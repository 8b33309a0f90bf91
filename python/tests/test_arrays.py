"""Arrays hand over memory without a copy, keep it as long as anybody holds it, and give it back."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from typing import Any

import forebay
import numpy as np
import pytest
import torch
from conftest import SMALL, Dataset, OpenLoader


@pytest.fixture
def batch(dataset: Dataset, open_loader: OpenLoader) -> forebay.Batch:
    return next(iter(open_loader(dataset.urls, fields=SMALL)))


def address(array: forebay.Array) -> int:
    return array.__array_interface__["data"][0]


def test_every_exchange_sees_the_same_memory(batch: forebay.Batch) -> None:
    for array in (batch["image"], batch["label"]):
        views = [np.asarray(array), array.numpy(), np.from_dlpack(array), np.frombuffer(memoryview(array), np.uint8)]
        assert {view.__array_interface__["data"][0] for view in views} == {address(array)}
        assert torch.from_dlpack(array).data_ptr() == address(array)
        assert torch.utils.dlpack.from_dlpack(array.__dlpack__()).data_ptr() == address(array)


def test_views_are_writable_and_writes_are_seen_by_all(batch: forebay.Batch) -> None:
    image = batch["image"]
    np.asarray(image)[0, 0, 0, 0] = 7
    torch.from_dlpack(image)[0, 0, 0, 1] = 8
    memoryview(image)[0, 0, 0, 2] = 9
    assert np.from_dlpack(image)[0, 0, 0].tolist() == [7, 8, 9]


def test_arrays_describe_themselves(batch: forebay.Batch) -> None:
    image, label = batch["image"], batch["label"]
    assert (image.shape, image.dtype, image.ndim, image.nbytes, len(image)) == ((8, 32, 32, 3), "uint8", 4, 8 * 3072, 8)
    assert (label.shape, label.dtype) == ((8,), "int64")
    assert repr(image) == "forebay.Array(shape=(8, 32, 32, 3), dtype=uint8)"
    assert image.__dlpack_device__() == (1, 0)
    assert address(image) % 64 == 0
    view = memoryview(image)
    assert (view.shape, view.strides, view.format, view.readonly) == ((8, 32, 32, 3), (3072, 96, 3, 1), "B", False)
    assert memoryview(label).tolist() == np.asarray(label).tolist()
    assert bytes(label) == np.asarray(label).tobytes()
    assert torch.from_dlpack(label).dtype == torch.int64


def test_numpy_gets_a_copy_only_where_it_asks(batch: forebay.Batch) -> None:
    label = batch["label"]
    assert np.asarray(label, dtype=np.float32).dtype == np.float32
    assert label.__array__(np.int64).__array_interface__["data"][0] == address(label)
    assert label.__array__(copy=True).__array_interface__["data"][0] != address(label)
    with pytest.raises(ValueError, match="copy=False"):
        label.__array__(np.float32, copy=False)


def test_dlpack_copies_only_on_request_and_says_so(batch: forebay.Batch) -> None:
    label = batch["label"]
    copied = np.from_dlpack(label, copy=True)
    assert copied.__array_interface__["data"][0] != address(label)
    assert copied.tolist() == np.asarray(label).tolist()
    assert copied.__array_interface__["data"][0] % 64 == 0


@pytest.mark.parametrize(("arguments", "says"), [({"stream": 3}, "stream"), ({"dl_device": (2, 0)}, "host memory")])
def test_dlpack_refuses_what_host_memory_cannot_do(batch: forebay.Batch, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BufferError, match=says):
        batch["image"].__dlpack__(**arguments)


def test_capsules_have_the_layout_that_the_consumer_asked_for(batch: forebay.Batch) -> None:
    image = batch["image"]
    assert '"dltensor"' in repr(image.__dlpack__())
    assert '"dltensor"' in repr(image.__dlpack__(max_version=(0, 8)))
    assert '"dltensor_versioned"' in repr(image.__dlpack__(max_version=(1, 1)))


def test_a_fortran_ordered_view_is_refused(batch: forebay.Batch) -> None:
    view = (ctypes.c_char * 80)()
    ctypes.pythonapi.PyObject_GetBuffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    with pytest.raises(BufferError, match="C-contiguous"):
        ctypes.pythonapi.PyObject_GetBuffer(batch["image"], ctypes.byref(view), 0x58)


def test_python_code_cannot_make_arrays() -> None:
    with pytest.raises(TypeError):
        forebay.Array()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        type("Mine", (forebay.Array,), {})


def test_batches_outlive_the_loader(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=SMALL)
    batches = list(loader)
    tensors = [torch.from_dlpack(batch["image"]) for batch in batches]
    sums = [int(tensor.sum()) for tensor in tensors]
    views = [memoryview(batch["label"]) for batch in batches]
    labels = [view.tolist() for view in views]
    loader.close()
    del loader, batches
    gc.collect()
    assert [int(tensor.sum()) for tensor in tensors] == sums
    assert [view.tolist() for view in views] == labels


def in_use(loader: forebay.DataLoader) -> int:
    gc.collect()
    return loader.stats().host_memory_bytes


def test_memory_goes_back_when_the_last_holder_lets_go(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=SMALL)
    for _ in loader:  # fills what the cache keeps
        pass
    before = in_use(loader)
    batches = list(loader)
    images = [batch["image"] for batch in batches]
    held = in_use(loader)
    assert held >= before + sum(image.nbytes for image in images)
    tensors = [torch.from_dlpack(image) for image in images]
    capsules = [image.__dlpack__() for image in images]
    views = [memoryview(image) for image in images]
    arrays = [np.asarray(image) for image in images]
    del batches, images, tensors, capsules, views
    assert in_use(loader) >= before + sum(array.nbytes for array in arrays)
    del arrays
    assert in_use(loader) <= before


def test_a_tensor_may_be_dropped_on_another_thread(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=SMALL)
    held = [torch.from_dlpack(batch["image"]) for batch in loader]
    gone = weakref.ref(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert gone() is None


def test_a_batch_shows_what_it_holds(batch: forebay.Batch) -> None:
    assert repr(batch) == "Batch(epoch=0, index=0, valid=8, {'image': <uint8 [8, 32, 32, 3]>, 'label': <int64 [8]>})"
    assert list(batch.keys()) == ["image", "label"]
    assert len(batch.samples) == 8
