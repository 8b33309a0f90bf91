"""`device="cuda"` from the outside: the same batches as on the CPU, in a device's memory."""

from __future__ import annotations

import ctypes
import gc
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from children import Child
from consumer import Consumer, Taken
from simulator import Simulator, until

if TYPE_CHECKING:
    from conftest import Dataset, OpenLoader

FIELDS = {
    "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32), forebay.RandomHorizontalFlip()]),
    "normal": forebay.Image(
        "jpg",
        transform=[
            forebay.Resize((24, 24)),
            forebay.Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
            forebay.Cast("float16"),
            forebay.Layout("NCHW"),
        ],
    ),
    "label": forebay.Int("cls"),
    "score": forebay.Float("score"),
    "feature": forebay.Numpy("npy"),
    "text": forebay.Text("txt"),
    "document": forebay.Json("json"),
    "blob": forebay.Bytes("bin"),
}
ON_DEVICE = ["image", "normal", "label", "score", "feature"]
CUDA: dict[str, Any] = {"device": "cuda", "gpu_memory_limit": "32MB"}


def host(column: Any) -> Any:
    """A column on the CPU, whatever it is."""
    if isinstance(column, list):
        return column
    return np.from_dlpack(column, device="cpu", copy=True)


def assert_same(ours: Any, theirs: Any) -> None:
    """Batches with equal values, but for images, which the device converts by other kernels: 1 level."""
    assert list(ours) == list(theirs)
    assert (ours.epoch, ours.index, ours.valid, ours.samples) == (
        theirs.epoch,
        theirs.index,
        theirs.valid,
        theirs.samples,
    )
    for name in ours:
        left, right = host(ours[name]), host(theirs[name])
        if isinstance(left, list):
            assert left == right, name
        else:
            assert (left.shape, left.dtype) == (right.shape, right.dtype), name
            np.testing.assert_array_equal(left, right, err_msg=name)


def test_two_epochs_are_those_of_the_cpu(dataset: Dataset, open_loader: OpenLoader) -> None:
    ours = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **CUDA)
    theirs = open_loader(dataset.urls, fields=FIELDS, shuffle=True)
    for _ in range(2):
        for left, right in zip(ours, theirs, strict=True):
            assert [name for name in left if isinstance(left[name], forebay.DeviceArray)] == ON_DEVICE
            assert_same(left, right)


@pytest.mark.parametrize("settings", ["vmm=0", "rdma=0", "delay_us=0"])
def test_every_kind_of_driver_gives_the_same(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, settings: str
) -> None:
    driver.configure(settings)
    ours = open_loader(dataset.urls, fields=FIELDS, **CUDA)
    for left, right in zip(ours, open_loader(dataset.urls, fields=FIELDS), strict=True):
        assert_same(left, right)
    wanted = "cuMemAlloc" if settings == "vmm=0" else "virtual memory"
    assert ours.stats().device["memory"] == wanted


def test_a_last_batch_is_padded(dataset: Dataset, open_loader: OpenLoader) -> None:
    arguments: dict[str, Any] = {"fields": FIELDS, "batch_size": 7, "drop_last": False}
    ours = list_of(open_loader(dataset.urls, **CUDA, **arguments))
    assert ours[-1][1] == 60 % 7
    assert ours == list_of(open_loader(dataset.urls, **arguments))


def list_of(loader: Any) -> list[Any]:
    """An epoch as plain values."""
    return [
        (batch.samples, batch.valid, [np.asarray(host(batch[name])).tolist() for name in ON_DEVICE]) for batch in loader
    ]


def test_a_state_goes_on_where_it_was_taken(dataset: Dataset, open_loader: OpenLoader) -> None:
    whole = list_of(open_loader(dataset.urls, fields=FIELDS, shuffle=True, **CUDA))
    first = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **CUDA)
    running = iter(first)
    for _ in range(3):
        next(running)
    state = first.state_dict()
    first.close()
    second = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **CUDA)
    second.load_state_dict(state)
    assert list_of(second) == whole[3:]


@pytest.mark.parametrize(
    ("device", "index"),
    [
        ("auto", 0),
        ("cuda", 0),
        ("cuda:1", 1),
        ("uuid", 1),
    ],
)
def test_a_device_by_number_uuid_or_as_it_comes(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, device: str, index: int
) -> None:
    if device == "uuid":
        raw = (ctypes.c_uint8 * 16)()
        assert driver.library.cuDeviceGetUuid_v2(raw, 1) == 0
        text = bytes(raw).hex()
        device = f"cuda:GPU-{text[:8]}-{text[8:12]}"
    loader = open_loader(dataset.urls, device=device)
    batch = next(iter(loader))
    assert batch["label"].__dlpack_device__() == (2, index)
    assert batch["label"].device == f"cuda:{index}"
    assert loader.stats().device["name"].startswith(f"cuda:{index} (")


@pytest.mark.simulator
def test_each_rank_takes_its_own_device(
    dataset: Dataset, open_loader: OpenLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert next(iter(open_loader(dataset.urls, device="cuda")))["label"].device == "cuda:1"


@pytest.mark.simulator
def test_a_local_rank_that_names_no_device_is_an_error_that_says_so(
    dataset: Dataset, open_loader: OpenLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    with pytest.raises(forebay.ConfigError, match=r"LOCAL_RANK is 5.*cuda:0 to cuda:1"):
        open_loader(dataset.urls, device="cuda")


@pytest.mark.simulator
@pytest.mark.parametrize("rank", ["-1", "many"])
def test_a_local_rank_that_is_none_concerns_only_who_asks_for_it(
    dataset: Dataset, open_loader: OpenLoader, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    next(iter(open_loader(dataset.urls)))
    next(iter(open_loader(dataset.urls, device="cuda:1")))
    with pytest.raises(forebay.ConfigError, match=f"LOCAL_RANK='{rank}'"):
        open_loader(dataset.urls, device="cuda")


def test_stats_say_what_the_device_did(dataset: Dataset, open_loader: OpenLoader, driver: Simulator) -> None:
    loader = open_loader(dataset.urls, fields=FIELDS, **CUDA)
    for _ in loader:
        pass
    device = loader.stats().device
    assert device["copy_path"] == "pinned"
    assert device["copied_bytes"] == driver.counter("h2d_bytes")
    assert 0 < device["peak_bytes"] <= device["limit_bytes"]
    assert device["uuid"].startswith("GPU-f0be464f-")
    assert (device["pci"], device["capability"], device["driver"]) == ("0000:01:00.0", "9.0", "12.0")
    assert (device["total_bytes"], device["free_bytes"]) == (1 << 30, (1 << 30) - device["limit_bytes"])
    assert "cuda:0" in repr(loader.stats())
    loader.close()
    assert loader.stats().device["copied_bytes"] == device["copied_bytes"]
    assert getattr(open_loader(dataset.urls).stats(), "device", None) is None


def test_bytes_cross_the_bus_once(dataset: Dataset, open_loader: OpenLoader, driver: Simulator) -> None:
    fields = {"image": FIELDS["image"], "label": FIELDS["label"]}
    with open_loader(dataset.urls, fields=fields, device="cuda") as loader:
        copied = sum(batch[name].nbytes for batch in loader for name in batch)
    assert driver.counter("h2d_bytes") == copied
    assert driver.counter("d2h_bytes") == 0


def test_nothing_is_allocated_behind_the_first_batches(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    loader = open_loader(dataset.urls, fields=FIELDS, batch_size=4, **CUDA)
    counts = ("device_allocations", "pinned_allocations", "streams")
    for _ in range(2):
        for at, batch in enumerate(loader):
            if at == 3 and batch.epoch == 0:
                before = [driver.counter(name) for name in counts[:2]]
    assert [driver.counter(name) for name in counts[:2]] == before
    assert driver.counter("pinned_bytes") > 0


def test_a_batch_outlives_its_loader(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer
) -> None:
    expected = [host(batch["image"]) for batch in open_loader(dataset.urls, fields=FIELDS)][:3]
    loader = open_loader(dataset.urls, fields=FIELDS, **CUDA)
    running = iter(loader)
    batches = [next(running) for _ in range(3)]
    loader.close()
    del running
    stream = consumer.stream()
    for batch, right in zip(batches, expected, strict=True):
        assert consumer.bytes_of(batch["image"], stream) == right.tobytes()
        np.testing.assert_array_equal(host(batch["image"]), right)
    until(lambda: driver.counter("pinned_bytes") > 0)
    del batch
    batches.clear()
    gc.collect()


def test_a_batch_that_outlives_its_loader_does_not_keep_the_cache_folder(
    dataset: Dataset, open_loader: OpenLoader
) -> None:
    """Other limits may be set for the folder: the session has ended."""
    with open_loader(dataset.urls, device="cuda") as loader:
        batch = next(iter(loader))
    with open_loader(dataset.urls, host_memory_limit="256MB", cache_limit="500MB") as other:
        assert next(iter(other)).samples == batch.samples
    assert host(batch["label"]).tolist() == [dataset.at(sample).label for sample in batch.samples]


def test_the_last_to_let_go_of_a_batch_waits_for_nothing(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer
) -> None:
    """Its memory's last work is still queued when the deleter runs, under the interpreter's lock and behind the loader's end."""
    loader = open_loader(dataset.urls, fields=FIELDS, **CUDA)
    running = iter(loader)
    batch = next(running)
    loader.close()
    stream = consumer.stream()
    taken = Taken(batch["image"].__dlpack__(stream=stream))
    del batch, running
    gc.collect()
    with driver.held(), driver.borrowed():
        consumer.fill(taken.address, taken.bytes, stream)
        taken.release(with_gil=True)
    until(lambda: driver.counter("pinned_bytes") == 0)
    assert driver.count_of("gil") == 0


# Batches of 1.5 MB, of which two fit.
LARGE: dict[str, Any] = {
    "fields": {"image": forebay.Image("jpg", transform=[forebay.Resize((512, 512))])},
    "batch_size": 2,
    "device": "cuda",
    "gpu_memory_limit": 4 << 20,
}


def test_who_holds_every_batch_is_told_so(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, **LARGE, timeout=None)
    with pytest.raises(forebay.ConfigError, match=r"held by the consumer.* raise gpu_memory_limit"):
        list(loader)
    # The loader goes on where it stood, or anew.
    assert sum(1 for _ in loader) == 28
    assert [batch.index for batch in loader] == list(range(30))


def test_the_last_batches_wait_for_room_as_all_others(dataset: Dataset, open_loader: OpenLoader) -> None:
    """Nothing is planned any more when they do."""
    loader = open_loader(dataset.urls[:1], **LARGE)
    for batch in loader:
        if batch.index == 7:
            until(lambda: loader.stats().device["used_bytes"] > 3_000_000)
    assert batch.index == 9


def test_device_memory_is_used_again_behind_the_consumers_work(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    fields = {"image": FIELDS["image"]}
    right = [host(batch["image"]).tobytes() for batch in open_loader(dataset.urls, fields=fields)]
    stream = consumer.stream()
    read = []
    for batch in open_loader(dataset.urls, fields=fields, device="cuda", gpu_memory_limit=2 << 20):
        taken = Taken(batch["image"].__dlpack__(stream=stream))
        read.append((consumer.copy_out(taken.address, taken.bytes, stream), taken.bytes))
        taken.release()
    consumer.wait(stream)
    assert [ctypes.string_at(*each) for each in read] == right


def test_several_large_values_come_to_the_host_while_more_are_on_their_way(
    dataset: Dataset, open_loader: OpenLoader
) -> None:
    """What goes over the small pinned part both ways, in more pieces than it has."""
    fields = {name: forebay.Image("jpg", transform=[forebay.Resize((64, 64))]) for name in ("a", "b", "c")} | {
        "one": forebay.Numpy("npy"),
        "two": forebay.Numpy("npy"),
        "three": forebay.Numpy("npy"),
    }
    ours = open_loader(dataset.urls, fields=fields, prefetch_factor=1, batch_size=4, **CUDA)
    for left, right in zip(ours, open_loader(dataset.urls, fields=fields, batch_size=4), strict=True):
        assert_same(left, right)


def test_a_slow_bus_holds_up_nobody_for_ever(dataset: Dataset, open_loader: OpenLoader, driver: Simulator) -> None:
    """A consumer that asks for batch after batch and waits for none: the slots on the host come back as copies end."""
    driver.configure("bus_gbps=0.005")
    fields = {"image": forebay.Image("jpg", transform=[forebay.Resize((256, 256))])}
    loader = open_loader(dataset.urls, fields=fields, batch_size=2, prefetch_factor=1, device="cuda", timeout=None)
    assert sum(batch.valid for batch in loader) == 60


def test_a_device_array_tells_what_it_is(dataset: Dataset, open_loader: OpenLoader) -> None:
    batch = next(iter(open_loader(dataset.urls, fields=FIELDS, **CUDA)))
    image = batch["image"]
    assert (image.shape, image.dtype, image.ndim, image.nbytes) == ((8, 32, 32, 3), "uint8", 4, 8 * 32 * 32 * 3)
    assert len(image) == 8
    assert repr(image) == "forebay.DeviceArray(shape=(8, 32, 32, 3), dtype=uint8, device=cuda:0)"
    with pytest.raises(TypeError, match=r"numpy.from_dlpack\(array, device=\"cpu\"\)"):
        np.asarray(image)
    assert batch["document"][0]["nested"] == {"ok": True}


def test_a_device_takes_a_loader_that_is_not_closed_to_the_end_of_the_process(dataset: Dataset, tmp_path: Any) -> None:
    code = """
loader = open_loader(urls, cache, device="cuda")
running = iter(loader)
sys.modules["keeps"] = [next(running), next(running)["label"].__dlpack__()]
say("ends")
"""
    environment = {"FOREBAY_FAKE_CUDA_LEAKS": "0", "FOREBAY_FAKE_CUDA_EXIT_CODE": "9"}
    with Child(code, tmp_path, *dataset.urls, environment=environment) as child:
        assert child.finish() == (0, "ends\n", "")
