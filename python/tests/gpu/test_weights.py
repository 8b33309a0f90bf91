"""Weights on a device: tensors of the consumer's own memory, and leases that are used again behind the consumer's work."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer, Taken
from forebay import weights
from forebay.weights._frameworks import Torch
from simulator import Simulator, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZES = {"U8": 1, "BF16": 2, "F32": 4, "F8_E4M3": 1}
SEEDS = range(10)


@pytest.fixture(autouse=True)
def ended(driver: Simulator | None) -> Iterator[None]:
    """Reads that were under way when a load was given up end by themselves, and with the last of them its memory is unpinned."""
    yield
    gc.collect()
    if driver is not None:
        until(lambda: driver.counter("pinned_bytes") == 0)


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], seed: int = 0) -> dict[str, bytes]:
    """A file of random tensors, one behind the other; their bytes."""
    draw = random.Random(seed)
    header, parts, at = {}, {}, 0
    for name, (dtype, shape) in tensors.items():
        count = SIZES[dtype]
        for size in shape:
            count *= size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count]}
        parts[name] = draw.randbytes(count)
        at += count
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts.values()))
    return parts


def mixed() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Small and large ones, askew ones, scalars."""
    named: dict[str, tuple[str, tuple[int, ...]]] = {f"small.{n}": ("BF16", (n + 1, 37)) for n in range(200)}
    named |= {"bytes": ("U8", (13,)), "scalar": ("F32", ()), "large": ("F32", (3000, 1000)), "f8": ("F8_E4M3", (7, 9))}
    return named | {"next": ("BF16", (1 << 21,)), "last": ("U8", (5,))}


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, dict[str, bytes]]:
    file = tmp_path / "model.safetensors"
    parts = write(file, mixed())
    return str(file), parts


def padded(parts: dict[str, bytes]) -> int:
    return sum(len(part) + 255 for part in parts.values())


def bytes_of(consumer: Consumer, array: Any) -> bytes:
    return consumer.bytes_of(array, consumer.stream())


@pytest.mark.parametrize("cached", [False, True])
def test_every_tensor_is_there_and_small_neighbours_are_one_copy(
    model: tuple[str, dict[str, bytes]], tmp_path: Path, consumer: Consumer, driver: Simulator, cached: bool
) -> None:
    url, parts = model
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "host_memory_limit": "256MB"} if cached else {}
    before = driver.counter("h2d_bytes"), driver.counter("h2d_copies")
    with weights.open(url, **options) as opened:
        tensors = opened.load(framework="dlpack", device="cuda")
        assert list(tensors) == opened.keys()
        moved, copies = driver.counter("h2d_bytes") - before[0], driver.counter("h2d_copies") - before[1]
        assert sum(map(len, parts.values())) <= moved <= padded(parts)
        # 200 small tensors of 1.5 MB, 12 MB in pieces of a block at most, 4 MB.
        assert copies <= 14, copies
        for name, array in tensors.items():
            assert bytes_of(consumer, array) == parts[name], name
            taken = Taken(array.__dlpack__(stream=1))
            assert taken.address % 256 == 0
            taken.release()
    with pytest.raises(forebay.StateError):
        opened.load(framework="dlpack", device="cuda")
    last = bytes_of(consumer, tensors["last"])
    assert last == parts["last"], "it outlives the model"


def test_a_tensor_says_what_it_is(model: tuple[str, dict[str, bytes]], consumer: Consumer) -> None:
    tensors = weights.open(model[0]).load(["scalar", "large", "small.3", "f8"], framework="dlpack", device="cuda")
    shown = {name: (array.shape, array.dtype, array.device) for name, array in tensors.items()}
    assert shown == {
        "small.3": ((4, 37), "bfloat16", "cuda:0"),
        "scalar": ((), "float32", "cuda:0"),
        "large": ((3000, 1000), "float32", "cuda:0"),
        "f8": ((7, 9), "uint8", "cuda:0"),
    }
    on_host = np.from_dlpack(tensors["large"], device="cpu")
    assert on_host.tobytes() == model[1]["large"]


def test_a_second_device(model: tuple[str, dict[str, bytes]]) -> None:
    tensors = weights.open(model[0]).load(["large"], framework="dlpack", device=1)
    assert tensors["large"].device == "cuda:1"
    assert np.from_dlpack(tensors["large"], device="cpu").tobytes() == model[1]["large"]


@pytest.mark.parametrize("dimension", [0, 1])
def test_ranks_take_their_parts(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, driver: Simulator, dimension: int
) -> None:
    whole = np.frombuffer(model[1]["large"], np.uint32).reshape(3000, 1000)
    with weights.open(model[0]) as opened:
        parts = []
        for rank in range(3):
            before = driver.counter("h2d_bytes")
            plan = {"large": (dimension, rank, 3)}
            part = opened.load(["large"], framework="dlpack", device="cuda", slices=plan)["large"]
            assert driver.counter("h2d_bytes") - before == part.nbytes, "no byte of other ranks crosses the bus"
            parts.append(np.frombuffer(bytes_of(consumer, part), np.uint32).reshape(part.shape))
    assert np.array_equal(np.concatenate(parts, dimension), whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_leases_are_used_again_behind_the_consumers_work_alone(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, delays: Callable[[int], None], seed: int
) -> None:
    """Memory for a part of the model: the consumer lets each tensor go while its stream still reads it."""
    url, parts = model
    delays(seed)
    stream = consumer.stream()
    read: dict[str, tuple[int, int]] = {}
    lay: dict[str, range] = {}
    for name, array in weights.stream(url, framework="dlpack", device="cuda", owned=False, gpu_memory_limit="14MB"):
        taken = Taken(array.__dlpack__(stream=stream))
        lay[name] = range(taken.address, taken.address + taken.bytes)
        del array
        at = consumer.copy_out(taken.address, taken.bytes, stream)
        consumer.fill(taken.address, taken.bytes, stream)
        read[name] = at, taken.bytes
        taken.release()
    consumer.wait(stream)
    assert {name: ctypes.string_at(at, size) for name, (at, size) in read.items()} == parts
    large, behind = lay["large"], lay["next"]
    assert max(large.start, behind.start) < min(large.stop, behind.stop), "it lies where another one lay"


def test_leases_that_nobody_lets_go_are_an_error_and_no_hang(
    model: tuple[str, dict[str, bytes]], consumer: Consumer
) -> None:
    kept: list[Any] = []
    leases = weights.stream(model[0], framework="dlpack", device="cuda", owned=False, gpu_memory_limit="14MB")
    with pytest.raises(forebay.ConfigError, match=r"let tensors go.*raise gpu_memory_limit"):
        kept.extend(leases)
    assert kept, "what was given until then"


def test_a_tensor_larger_than_the_memory_is_refused_before_it_is_read(model: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(forebay.ConfigError, match="12000000 bytes"):
        weights.open(model[0]).load(["large"], framework="dlpack", device="cuda", owned=False, gpu_memory_limit="4MB")


def test_memory_of_the_consumers_own_is_filled_on_its_stream(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, driver: Simulator
) -> None:
    """What torch's tensors are made of: its memory, on its stream, which nobody waits for."""
    url, parts = model
    opened = weights.open(url)
    core, infos = opened._core, [opened.info(name) for name in opened]
    loading = core.load_onto(
        [(number, None) for number in range(len(infos))], device="cuda:0", local_rank=None, budget=None
    )
    stream, seen, total = consumer.stream(), {}, 0
    while (coming := loading.next()) is not None:
        nbytes, members = coming
        own = ctypes.c_uint64()
        consumer.call("cuMemAllocAsync", ctypes.byref(own), nbytes, stream)
        loading.fill(own.value, stream)
        total += nbytes
        for want, offset, size in members:
            seen[infos[want].name] = consumer.copy_out(own.value + offset, size, stream), size
        consumer.call("cuMemFreeAsync", own.value, stream)
    moved = loading.copied_bytes()
    loading.close()
    consumer.wait(stream)
    assert {name: ctypes.string_at(at, size) for name, (at, size) in seen.items()} == parts
    assert moved <= total <= padded(parts)


class Own(Torch):
    """A framework that takes memory of a device as torch does; its tensors are addresses and sizes."""

    def __init__(self, consumer: Consumer, groups: int) -> None:
        self.consumer, self.stream, self.groups = consumer, consumer.stream(), groups
        self.taken: list[int] = []

    def device(self, name: str) -> str:
        return "cuda:0"

    def empty(self, nbytes: int, device: str) -> tuple[Any, int]:
        if len(self.taken) == self.groups:
            raise MemoryError("CUDA out of memory")
        own = ctypes.c_uint64()
        self.consumer.call("cuMemAllocAsync", ctypes.byref(own), nbytes, self.stream)
        self.taken.append(own.value)
        return SimpleNamespace(data_ptr=lambda: own.value), self.stream

    def tensors(self, base: Any) -> Callable[[int, int, str, tuple[int, ...]], Any]:
        return lambda offset, nbytes, _dtype, _shape: (base.data_ptr() + offset, nbytes)

    def free(self) -> None:
        for address in self.taken:
            self.consumer.call("cuMemFreeAsync", address, self.stream)
        self.consumer.wait(self.stream)


def test_a_frameworks_own_tensors_are_filled_where_they_are(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's are, of which there is none for a device here."""
    own = Own(consumer, groups=100)
    monkeypatch.setattr("forebay.weights._model.framework_named", lambda _: own)
    loaded = weights.open(model[0]).load(device="cuda")
    at = {name: (consumer.copy_out(address, size, own.stream), size) for name, (address, size) in loaded.items()}
    own.free()
    assert {name: ctypes.string_at(place, size) for name, (place, size) in at.items()} == model[1]


def test_a_device_that_is_full_in_the_middle_is_the_frameworks_error_and_all_is_freed(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Own(consumer, groups=2)
    monkeypatch.setattr("forebay.weights._model.framework_named", lambda _: own)
    opened = weights.open(model[0])
    with pytest.raises(MemoryError):
        opened.load(device="cuda")
    assert len(own.taken) == 2
    own.free()
    own.taken, own.groups = [], 100
    assert opened.load(device="cuda").keys() == model[1].keys(), "the model goes on"
    own.free()


def test_a_load_that_nobody_closes_waits_for_the_bus_without_the_gil(
    model: tuple[str, dict[str, bytes]], consumer: Consumer, driver: Simulator
) -> None:
    driver.configure("bus_gbps=0.1")
    loading = weights.open(model[0])._core.load_onto([(0, None)], device="cuda:0", local_rank=None, budget=None)
    coming = loading.next()
    assert coming is not None
    stream, own = consumer.stream(), ctypes.c_uint64()
    consumer.call("cuMemAllocAsync", ctypes.byref(own), coming[0], stream)
    loading.fill(own.value, stream)
    # The driver finds whoever waits inside it and holds the lock.
    del loading
    consumer.call("cuMemFreeAsync", own.value, stream)
    consumer.wait(stream)


def test_a_group_that_was_left_is_not_taken_for_the_next_one(model: tuple[str, dict[str, bytes]]) -> None:
    loading = weights.open(model[0])._core.load_onto([(0, None)], device="cuda:0", local_rank=None, budget=0)
    assert loading.next() is not None
    with pytest.raises(forebay.StateError, match="begin anew"):
        loading.next()
    loading.close()


def test_a_device_without_room_is_an_error_and_all_is_freed(
    model: tuple[str, dict[str, bytes]], driver: Simulator
) -> None:
    driver.configure("memory_mib=8")
    with pytest.raises(forebay.DeviceError, match="memory"):
        weights.open(model[0]).load(framework="dlpack", device="cuda")
    gc.collect()
    driver.configure("memory_mib=256")
    tensors = weights.open(model[0]).load(framework="dlpack", device="cuda")
    assert len(tensors) == len(model[1])


def test_a_copy_that_fails_in_the_middle_is_an_error_and_all_is_freed(
    model: tuple[str, dict[str, bytes]], driver: Simulator
) -> None:
    driver.configure("faults=cuMemcpyHtoDAsync_v2@3:1")
    with pytest.raises(forebay.DeviceError):
        weights.open(model[0]).load(framework="dlpack", device="cuda")


def test_a_file_cut_short_meanwhile_is_an_error(model: tuple[str, dict[str, bytes]]) -> None:
    opened = weights.open(model[0])
    os.truncate(model[0], os.path.getsize(model[0]) - 100)
    with pytest.raises(forebay.Error, match=r"changed|ends"):
        opened.load(framework="dlpack", device="cuda")


def test_ctrl_c_in_the_middle_frees_everything(model: tuple[str, dict[str, bytes]], driver: Simulator) -> None:
    # 18 MB take 9 s.
    driver.configure("bus_gbps=0.002")
    tensors = weights.stream(model[0], framework="dlpack", device="cuda")
    next(tensors)
    start = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
    # A shell's background jobs ignore it, and so would this one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        start.start()
        with pytest.raises(KeyboardInterrupt):
            list(tensors)
        start.join()
    finally:
        signal.signal(signal.SIGINT, before)
    driver.configure("bus_gbps=1000")


@pytest.mark.filterwarnings("ignore:CUDA initialization")
@pytest.mark.simulator
def test_a_torch_that_sees_no_device_is_told(model: tuple[str, dict[str, bytes]]) -> None:
    with weights.open(model[0]) as opened, pytest.raises(forebay.ConfigError, match=r"built for the CPU|finds no CUDA"):
        opened.load(device="cuda")


def test_what_can_not_be_is_said(model: tuple[str, dict[str, bytes]]) -> None:
    with weights.open(model[0]) as opened:
        for error, match, arguments in [
            (forebay.ConfigError, "numpy has host memory only", {"framework": "np", "device": "cuda"}),
            (forebay.ConfigError, 'give device="cuda"', {"framework": "dlpack"}),
            (forebay.ConfigError, "gpu_memory_limit", {"gpu_memory_limit": "1GB"}),
            (forebay.ConfigError, "cuda:7", {"framework": "dlpack", "device": "cuda:7"}),
            (forebay.ConfigError, "device='tpu'", {"device": "tpu"}),
        ]:
            with pytest.raises(error, match=match):
                opened.load(**arguments)


def test_the_way_to_a_device_is_kept_from_tensor_to_tensor(
    model: tuple[str, dict[str, bytes]], driver: Simulator
) -> None:
    with weights.safe_open(model[0], framework="dlpack", device="cuda") as file:
        with pytest.raises(forebay.ConfigError, match="slices="):
            file.get_slice("large")
        file.get_tensor("large")
        before = driver.counter("pinned_bytes")
        for name in ("bytes", "f8", "large", "last", "scalar") * 4:
            array = file.get_tensor(name)
            assert np.from_dlpack(array, device="cpu").tobytes() == model[1][name]
            assert driver.counter("pinned_bytes") <= before + (8 << 20), "4 MiB a tensor are for the way back"


def test_two_loads_at_a_time_do_not_wait_for_each_other(model: tuple[str, dict[str, bytes]]) -> None:
    with weights.open(model[0], host_memory_limit="64MB") as opened:
        one = opened.stream(framework="dlpack", device="cuda")
        other = opened.stream(framework="dlpack", device="cuda")
        names = [(next(one)[0], next(other)[0]) for _ in opened]
        assert names == [(name, name) for name in opened]


def test_the_program_loads_onto_a_device(model: tuple[str, dict[str, bytes]]) -> None:
    environment = {**os.environ, "FOREBAY_FAKE_CUDA_EXIT_CODE": "9"}
    command = [sys.executable, "-m", "forebay", "weights", "load", model[0], "--device"]
    ran = [
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False, timeout=120)
        for more in (["cuda:1", "--json"], ["cuda:0"], ["gpu"])
    ]
    assert [each.returncode for each in ran] == [0, 0, 2], ran
    found = json.loads(ran[0].stdout)
    assert found["device"]["name"].startswith("cuda:1 (")
    assert found["bytes"] == sum(map(len, model[1].values())) <= found["device"]["copied_bytes"] <= padded(model[1])
    assert "over the bus to cuda:0" in ran[1].stdout


def test_very_many_scalars_share_memory(tmp_path: Path) -> None:
    """256 bytes each: more than one allocation of neighbours, and more than one piece on its way."""
    named: dict[str, tuple[str, tuple[int, ...]]] = {f"scale.{n}": ("F32", ()) for n in range(40_000)}
    parts = write(tmp_path / "scales.safetensors", named)
    tensors = weights.open(tmp_path / "scales.safetensors").load(framework="dlpack", device="cuda")
    assert list(tensors) == list(parts)
    for name in ("scale.0", "scale.32767", "scale.32768", "scale.39999"):
        assert np.from_dlpack(tensors[name], device="cpu").tobytes() == parts[name]


def test_tensors_without_bytes_are_on_the_device_too(tmp_path: Path) -> None:
    named: dict[str, tuple[str, tuple[int, ...]]] = {"none": ("F32", (0, 4)), "large": ("F32", (1 << 19,))}
    write(tmp_path / "none.safetensors", named)
    with weights.open(tmp_path / "none.safetensors") as opened:
        for names in (None, ["none"]):
            array = opened.load(names, framework="dlpack", device="cuda")["none"]
            assert (array.shape, array.dtype, array.device) == ((0, 4), "float32", "cuda:0")
