"""What a framework gets by DLPack and `__cuda_array_interface__`, and when its memory is used again."""

from __future__ import annotations

import ctypes
import gc
import threading
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer, Taken
from simulator import Simulator
from soak import IntoConsumers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from conftest import Dataset, OpenLoader

    Borrowed = Callable[[], AbstractContextManager[None]]

FIELDS = {
    "image": forebay.Image("jpg", transform=[forebay.Resize((32, 32))]),
    "label": forebay.Int("cls"),
    "feature": forebay.Numpy("npy"),
}
# Two batches of images fit: every other batch is written where an earlier one was.
TIGHT: dict[str, Any] = {"fields": {"image": FIELDS["image"]}, "device": "cuda", "gpu_memory_limit": 2 << 20}
IMAGES = forebay.Image("jpg", transform=[forebay.Resize((224, 224))])
SEEDS = range(20)


@pytest.fixture(scope="module")
def right(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """An epoch's bytes, from the CPU."""
    arguments: dict[str, Any] = {"fields": FIELDS, "batch_size": 8, "host_memory_limit": "256MB"}
    with forebay.DataLoader(dataset.urls, cache_dir=tmp_path_factory.mktemp("right"), **arguments) as loader:
        return [{name: np.asarray(batch[name]).tobytes() for name in batch} for batch in loader]


def on_device(dataset: Dataset, open_loader: OpenLoader, **more: Any) -> Any:
    return open_loader(dataset.urls, **{"fields": FIELDS, "device": "cuda", "gpu_memory_limit": "32MB", **more})


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_says_what_it_holds(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer, right: Any, versioned: bool
) -> None:
    batch = next(iter(on_device(dataset, open_loader)))
    stream = consumer.stream()
    taken = Taken(batch["image"].__dlpack__(stream=stream, max_version=(1, 1) if versioned else None))
    tensor = taken.tensor
    assert taken.versioned == versioned
    assert (tensor.device_type, tensor.device_id, tensor.code, tensor.bits, tensor.lanes) == (2, 0, 1, 8, 1)
    assert taken.shape == (8, 32, 32, 3)
    assert tuple(tensor.strides[:4]) == (32 * 32 * 3, 32 * 3, 3, 1)
    assert taken.address % 256 == 0
    if versioned:
        assert taken._managed.flags == 0, "neither read-only nor copied"
    at = consumer.copy_out(taken.address, taken.bytes, stream)
    consumer.wait(stream)
    assert ctypes.string_at(at, taken.bytes) == right[0]["image"]
    taken.release()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("versioned", [False, True])
def test_bytes_are_right_on_a_stream_of_the_consumers(
    dataset: Dataset,
    open_loader: OpenLoader,
    delays: Callable[[int], None],
    consumer: Consumer,
    right: Any,
    seed: int,
    versioned: bool,
) -> None:
    """It lets go of what its stream still works on, and overwrites it there."""
    delays(seed)
    stream = consumer.stream(blocking=bool(seed % 2))
    read = []
    for batch, theirs in zip(on_device(dataset, open_loader, gpu_memory_limit=2 << 20), right, strict=True):
        for name in batch:
            taken = Taken(batch[name].__dlpack__(stream=stream, max_version=(1, 0) if versioned else None))
            read.append((consumer.copy_out(taken.address, taken.bytes, stream), theirs[name]))
            consumer.fill(taken.address, taken.bytes, stream)
            taken.release(with_gil=bool(seed & 4))
    consumer.wait(stream)
    assert all(ctypes.string_at(at, len(theirs)) == theirs for at, theirs in read)


@pytest.mark.parametrize("handle", [None, 1, 2, -1])
def test_streams_that_have_a_name_or_none(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer, right: Any, handle: int | None
) -> None:
    """None and 1: the legacy default stream; 2: the thread's; -1: the consumer waits for the device itself."""
    stream = {None: 1, -1: consumer.stream()}.get(handle, handle)
    assert stream is not None
    read = []
    for batch, theirs in zip(open_loader(dataset.urls, **TIGHT), right, strict=True):
        taken = Taken(batch["image"].__dlpack__(stream=handle))
        if handle == -1:
            consumer.wait_for_all()
        read.append((consumer.copy_out(taken.address, taken.bytes, stream), theirs["image"]))
        taken.release()
    consumer.wait_for_all()
    assert all(ctypes.string_at(at, len(theirs)) == theirs for at, theirs in read)


@pytest.mark.parametrize("faults", ["", "cuCtxRecordEvent@1+:801"])
@pytest.mark.parametrize("handle", [2, -1])
def test_memory_whose_stream_nobody_knows_is_used_again_behind_everything(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer, faults: str, handle: int
) -> None:
    """With an event of everything, or, from drivers before CUDA 12.5, by waiting for everything."""
    driver.configure(f"faults={faults}")
    stream = 2 if handle == 2 else consumer.stream()
    fields = {"image": IMAGES}
    for batch in open_loader(dataset.urls, fields=fields, device="cuda", gpu_memory_limit=4 << 20):
        taken = Taken(batch["image"].__dlpack__(stream=handle))
        if handle == -1:
            consumer.wait_for_all()
        for _ in range(3):
            consumer.fill(taken.address, taken.bytes, stream)
        # Let go elsewhere: the thread's default stream is another one there.
        thread = threading.Thread(target=taken.release)
        del batch
        thread.start()
        thread.join()


WRONG_STREAMS = [0, -2, -(2**70), 2**64, 2**200, 1.5, "1", b"1", object(), [], (1, 2), {}]
WRONG = (
    [{"stream": stream} for stream in WRONG_STREAMS]
    + [{"max_version": version} for version in (1, "1.0", (1,), ("a", "b"), (-1, 0), (2**40, 0), object())]
    + [{"dl_device": device} for device in (2, (2,), ("cuda", 0), (2, 7), (2**40, 0), (13, 0), object())]
    + [{"copy": copy} for copy in (True, np.array([1, 2]))]
    + [{"dl_device": (1, 0), "stream": 1}, {"dl_device": (1, 0), "copy": False}, {"dl_device": (1, 1)}]
)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_asked_wrongly_is_a_buffer_error(dataset: Dataset, open_loader: OpenLoader, wrong: Any) -> None:
    """Never a TypeError: torch would ask again without the stream."""
    image = next(iter(on_device(dataset, open_loader)))["image"]
    with pytest.raises(BufferError) as raised:
        image.__dlpack__(**wrong)
    assert str(raised.value)
    del raised


class Nothing:
    """A stream that can be nothing."""

    def __index__(self) -> int:
        raise TypeError("nor counted")

    def __bool__(self) -> bool:
        raise TypeError("nor asked")

    def __getitem__(self, at: int) -> int:
        raise TypeError("nor looked into")


@pytest.mark.parametrize("name", ["stream", "max_version", "dl_device", "copy"])
def test_not_even_an_object_that_fails_at_everything_gets_a_type_error(
    dataset: Dataset, open_loader: OpenLoader, name: str
) -> None:
    image = next(iter(on_device(dataset, open_loader)))["image"]
    with pytest.raises(BufferError):
        image.__dlpack__(**{name: Nothing()})


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 2), (7, 0)])
def test_a_copy_in_host_memory(
    dataset: Dataset, open_loader: OpenLoader, right: Any, version: tuple[int, int] | None
) -> None:
    batch = next(iter(on_device(dataset, open_loader)))
    taken = Taken(batch["image"].__dlpack__(dl_device=(1, 0), max_version=version, copy=True))
    assert (taken.tensor.device_type, taken.tensor.device_id) == (1, 0)
    assert taken.versioned == (version is not None and version[0] >= 1)
    if taken.versioned:
        assert taken._managed.flags == 2, "copied"
    assert ctypes.string_at(taken.address, taken.bytes) == right[0]["image"]
    taken.release()
    assert np.from_dlpack(batch["label"], device="cpu").tobytes() == right[0]["label"]


def test_a_capsule_that_nobody_takes_is_let_go(dataset: Dataset, open_loader: OpenLoader) -> None:
    for batch in open_loader(dataset.urls, **TIGHT):
        for _ in range(3):
            batch["image"].__dlpack__()
            batch["image"].__dlpack__(max_version=(1, 0), stream=2)


def test_memory_waits_for_every_stream_that_it_went_to(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    """Two exports, let go in either order while both streams write; and a stream beside them, named by record_stream."""
    streams = [consumer.stream() for _ in range(3)]
    fields = {"image": IMAGES}
    loader = open_loader(dataset.urls, fields=fields, device="cuda", gpu_memory_limit=4 << 20)
    for batch in loader:
        exports = [Taken(batch["image"].__dlpack__(stream=stream)) for stream in streams[:2]]
        consumer.follow(streams[2], streams[0])
        batch["image"].record_stream(streams[2])
        third = exports[0].bytes // 3
        for at, stream in enumerate(streams):
            consumer.fill(exports[0].address + at * third, third, stream)
        for taken in exports if batch.index % 2 else reversed(exports):
            taken.release()


class TorchStream:
    """As torch's streams tell their handle."""

    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle


def test_a_stream_is_recorded_as_a_handle_or_as_torchs(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    image = next(iter(on_device(dataset, open_loader)))["image"]
    stream = consumer.stream()
    image.record_stream(stream)
    image.record_stream(TorchStream(stream))
    # torch's default stream.
    image.record_stream(TorchStream(0))
    for wrong in (0, -1, -7, "x", None, 1.5):
        if wrong is not None:
            with pytest.raises(ValueError, match=r"."):
                image.record_stream(wrong)


def test_the_cuda_array_interface(dataset: Dataset, open_loader: OpenLoader, consumer: Consumer, right: Any) -> None:
    """Of a batch whose streams nobody knows; its memory is used again behind everything."""
    stream = consumer.stream(blocking=True)
    read = []
    for batch, theirs in zip(open_loader(dataset.urls, **TIGHT), right, strict=True):
        interface = batch["image"].__cuda_array_interface__
        assert interface["version"] == 3
        assert (interface["typestr"], interface["shape"], interface["stream"]) == ("|u1", batch["image"].shape, 1)
        assert interface["strides"] == (3072, 96, 3, 1)
        address, read_only = interface["data"]
        assert not read_only
        # A blocking stream: it waits for the legacy one, which waits for the batch.
        size = len(theirs["image"])
        read.append((consumer.copy_out(address, size, stream), theirs["image"]))
        assert batch["image"].__cuda_array_interface__ == interface
    consumer.wait_for_all()
    assert all(ctypes.string_at(at, len(theirs)) == theirs for at, theirs in read)


def test_many_threads_ask_for_the_interface_at_once(dataset: Dataset, open_loader: OpenLoader) -> None:
    batch = next(iter(on_device(dataset, open_loader)))
    start = threading.Barrier(8)
    told: list[Any] = []

    def ask() -> None:
        start.wait()
        told.append(batch["image"].__cuda_array_interface__["data"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == 8
    assert len(set(told)) == 1


def test_a_finished_array_is_written_into_memory_of_the_consumers(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    """As `forebay.torch` takes it: normalised, cast and laid out on the way, on the consumer's stream."""

    fields = {
        "image": forebay.Image(
            "jpg",
            transform=[
                forebay.Resize((32, 32)),
                forebay.Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
                forebay.Layout("NCHW"),
            ],
        ),
        "plain": FIELDS["image"],
    }
    ours = open_loader(dataset.urls, IntoConsumers, fields=fields, device="cuda", gpu_memory_limit=2 << 20)
    batches = zip(ours, open_loader(dataset.urls, fields=fields), strict=True)
    pairs = ((left[name], np.asarray(right[name])) for left, right in batches for name in fields)
    for got, wanted in consumer.own_copies(pairs):
        assert got.tobytes() == wanted.tobytes()


def test_deleters_run_on_any_thread_under_any_context(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer
) -> None:
    """Without the lock, with no context, with another device's; none is left behind."""
    batches = iter(on_device(dataset, open_loader))
    taken = [Taken(next(batches)["image"].__dlpack__(stream=consumer.stream())) for _ in range(3)]
    gc.collect()
    with driver.borrowed():
        taken[0].release()
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with driver.borrowed():
                taken[1].release(with_gil=True)
            with Consumer(1), driver.borrowed():
                taken[2].release()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(60)
    assert not failed, failed


def test_no_call_leaves_a_trace_on_the_users_thread(
    dataset: Dataset, open_loader: OpenLoader, borrowed: Borrowed, consumer: Consumer
) -> None:
    with borrowed():
        loader = on_device(dataset, open_loader)
        for batch in loader:
            image = batch["image"]
            taken = Taken(image.__dlpack__(stream=consumer.stream()))
            image.__dlpack__(dl_device=(1, 0))
            _ = image.__cuda_array_interface__
            taken.release()
            del batch, image
        loader.stats()
        loader.close()
        del loader
        gc.collect()


@pytest.mark.parametrize("way", ["from_dlpack", "from_cuda_array_interface", "from_any_interface"])
def test_nvidias_own_consumer_takes_arrays_as_they_are(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer, way: str
) -> None:
    """cuda-core's view of an array, made for a stream; what is read there are the batch's bytes."""
    from cuda.core.utils import StridedMemoryView

    loader = on_device(dataset, open_loader)
    stream = consumer.stream()
    batch = next(iter(loader))
    view = getattr(StridedMemoryView, way)(batch["image"], stream_ptr=stream)
    assert (view.shape, view.dtype, view.device_id) == (batch["image"].shape, np.dtype(np.uint8), 0)
    assert view.is_device_accessible
    at = consumer.copy_out(view.ptr, batch["image"].nbytes, stream)
    wanted = np.from_dlpack(batch["image"], device="cpu", copy=True)
    consumer.wait(stream)
    assert ctypes.string_at(at, wanted.nbytes) == wanted.tobytes()
    del view, batch
    gc.collect()
