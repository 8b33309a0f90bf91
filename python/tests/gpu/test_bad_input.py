"""Whatever goes wrong on a device, or is asked of it wrongly: an error that names it, and nobody hangs."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from children import Child
from consumer import Consumer, Taken
from simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from conftest import Dataset, OpenLoader

    Borrowed = Callable[[], AbstractContextManager[None]]

IMAGE = {"image": forebay.Image("jpg", transform=[forebay.Resize((64, 64))])}
CUDA: dict[str, Any] = {"fields": IMAGE, "device": "cuda", "gpu_memory_limit": "32MB"}
# A child's code that ends with what opening a loader says.
OPENS = """
try:
    open_loader(urls, cache, device=%r)
    say("opened")
except forebay.Error as error:
    say(type(error).__name__, error)
"""


ALONE = {"FOREBAY_FAKE_CUDA_EXIT_CODE": "9", "FOREBAY_FAKE_CUDA_LEAKS": "0", "FOREBAY_FAKE_CUDA_QUIET": "0"}


def failure(call: Callable[[], Any]) -> str | None:
    """What a device's error says, where there is one."""
    try:
        call()
    except forebay.DeviceError as error:
        return str(error)
    return None


def assert_fails_once(driver: Simulator, fault: str, make: Callable[[], Any], epochs: int = 1, allow: str = "") -> None:
    """A call that fails is the loader's error, which names the device, or need not succeed. The next loader works."""

    def run() -> None:
        with make() as loader:
            for _ in range(epochs):
                assert sum(batch.valid for batch in loader) == 60

    driver.configure(f"faults={fault} allow={allow}")
    failed = failure(run)
    named = "NVJPEG_STATUS" if fault.startswith("nvjpeg") else "CUDA_ERROR_NOT_SUPPORTED"
    assert failed is None or ("cuda:0" in failed and named in failed), failed
    driver.configure("faults= allow=")
    gc.collect()
    run()


def said(code: str, tmp_path: Path, dataset: Dataset, **environment: str) -> str:
    """What a process says that runs on a machine of its own. What it holds when it ends goes with it."""
    names = {f"FOREBAY_FAKE_CUDA_{name}" if name.islower() else name: each for name, each in environment.items()}
    names = {name.upper(): each for name, each in names.items()}
    with Child(code, tmp_path, *dataset.urls, environment={**ALONE, **names}) as child:
        status, out, err = child.finish()
    assert status == 0, err
    return out


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("environment", "device", "words"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "cuda", ["ConfigError", "no device cuda", "CUDA_VISIBLE_DEVICES"]),
        ({"devices": "0"}, "cuda:1", ["ConfigError", "the driver sees none"]),
        ({"version": "11080"}, "cuda", ["DeviceError", "11.8", "too old", "12.0 (525.60)"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda:1", ["ConfigError", "no device cuda:1", "sees one"]),
        ({"devices": "2"}, "cuda:7", ["ConfigError", "no device cuda:7", "sees 2, cuda:0 to cuda:1"]),
        ({"devices": "2"}, "cuda:GPU-ffffffff", ["ConfigError", "no UUID begins so", "GPU-"]),
        ({"devices": "2"}, "cuda:x", ["ConfigError", "cuda:N"]),
        ({"faults": "cuInit@1:999"}, "cuda", ["DeviceError", "cuInit failed", "CUDA_ERROR_UNKNOWN"]),
        ({"faults": "cuDevicePrimaryCtxRetain@1:2"}, "cuda", ["DeviceError", "cuda:0", "OUT_OF_MEMORY"]),
    ],
    ids=lambda value: " ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, dict) else "",
)
def test_a_driver_that_can_not_be_used_is_named(
    dataset: Dataset, tmp_path: Path, environment: dict[str, str], device: str, words: list[str]
) -> None:
    out = said(OPENS % device, tmp_path, dataset, **environment)
    assert all(word in out for word in words), out


@pytest.mark.simulator
def test_auto_takes_the_cpu_where_there_is_no_device(dataset: Dataset, tmp_path: Path) -> None:
    code = 'batch = next(iter(open_loader(urls, cache, device="auto"))); say(type(batch["label"]).__name__)'
    for environment in ({"devices": "0"}, {"version": "11080"}):
        assert said(code, tmp_path, dataset, **environment) == "Array\n"
    assert said(code, tmp_path, dataset) == "DeviceArray\n"


def test_a_limit_below_one_batch_says_what_it_takes(dataset: Dataset, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.ConfigError, match=r"one batch of 8 takes 98304 bytes of cuda:0.*gpu_memory_limit"):
        open_loader(dataset.urls, fields=IMAGE, device="cuda", gpu_memory_limit=90_000)


@pytest.mark.simulator
def test_a_limit_beyond_the_device_says_what_is_free(dataset: Dataset, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.DeviceError, match=r"cuda:0.*no 2147483648 bytes.*1073741824 of 1073741824 are free"):
        open_loader(dataset.urls, fields=IMAGE, device="cuda", gpu_memory_limit=2 << 30)


@pytest.mark.parametrize("vmm", [0, 1])
@pytest.mark.parametrize("at", range(1, 4))
def test_out_of_memory_at_any_allocation_is_an_error_or_a_slower_way(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, at: int, vmm: int
) -> None:
    """The first are the device's memory and the host's pages; without pinned memory the bytes still come."""
    driver.configure(f"vmm={vmm} faults=oom@{at}+ allow=pageable")
    loaders: list[Any] = []
    failed = failure(lambda: loaders.append(open_loader(dataset.urls, **CUDA)))
    if failed is not None:
        assert at == 1
        assert "gpu_memory_limit" in failed
        return
    stats = loaders[0].stats()
    assert stats.device["copy_path"] == ("pageable" if at == 2 else "pinned")
    assert any("ulimit -l" in note for note in stats.notes) == (at == 2)
    assert sum(batch.valid for batch in loaders[0]) == 60


def test_without_pinned_memory_everything_is_right_all_the_same(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    driver.configure("faults=cuMemHostRegister_v2@1+:2 allow=pageable")
    ours = open_loader(dataset.urls, **CUDA)
    for left, right in zip(ours, open_loader(dataset.urls, fields=IMAGE), strict=True):
        np.testing.assert_array_equal(np.from_dlpack(left["image"], device="cpu"), np.asarray(right["image"]))
    assert ours.stats().device["copy_path"] == "pageable"


@pytest.mark.parametrize(
    "function",
    [
        "cuStreamCreate",
        "cuEventCreate",
        "cuEventRecord",
        "cuMemcpyHtoDAsync_v2",
        "cuEventQuery",
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemGetAllocationGranularity",
        "cuThreadExchangeStreamCaptureMode",
        "cuCtxPushCurrent_v2",
        "cuModuleLoadDataEx",
        "cuModuleGetFunction",
        "cuLaunchKernel",
    ],
)
@pytest.mark.parametrize("at", [1, 3])
def test_any_call_may_fail(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, function: str, at: int
) -> None:
    """With an error that concerns this call alone: the loader's names the device, and the next loader works."""
    normalised = forebay.Image("jpg", transform=[forebay.Resize((64, 64)), forebay.Normalize((0.5,) * 3, (0.2,) * 3)])
    arguments = {**CUDA, "fields": {"image": normalised}}

    fault = f"{function}@{at}:801"
    assert_fails_once(driver, fault, lambda: open_loader(dataset.urls, **arguments), allow="pageable")


def test_kernels_that_the_driver_rejects_are_shown_with_its_log(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    driver.configure("faults=cuModuleLoadDataEx@1:218")
    fields = {"image": forebay.Image("jpg", transform=[forebay.Resize((64, 64)), forebay.Cast("float16")])}
    with pytest.raises(forebay.DeviceError, match=r"cuda:0 \(.*\) refused the kernels \(CUDA_ERROR_INVALID_PTX\)"):
        next(iter(open_loader(dataset.urls, **{**CUDA, "fields": fields})))


LOST = """
image = forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32)])
loader = open_loader(urls, cache, device="cuda", batch_size=2, fields={"image": image}, **ARGUMENTS)
batch = None
try:
    for epoch in range(50):
        for batch in loader:
            pass
except forebay.DeviceError as error:
    say(type(error).__name__, error)
try:
    next(iter(loader))
except forebay.Error as error:
    say(type(error).__name__, error)
del batch
loader.close()
say("closed")
"""


def assert_ends_with_its_device(
    dataset: Dataset, tmp_path: Path, arguments: dict[str, Any], faults: str, allow: str = ""
) -> None:
    """A loader whose device is lost says so by name, again and again, and can be closed."""
    out = said(LOST.replace("ARGUMENTS", repr(arguments)), tmp_path, dataset, faults=faults, allow=allow)
    lines = out.splitlines()
    assert lines[0].startswith("DeviceError cuda:0 (Forebay Simulated GPU) is lost: "), out
    assert lines[1].startswith("DeviceError cuda:0 (Forebay Simulated GPU) is lost: "), out
    assert lines[2] == "closed"


@pytest.mark.simulator
@pytest.mark.parametrize("at", [1, 2, 7, 40])
@pytest.mark.parametrize("kind", ["lost", "cuEventQuery@{at}:700", "cuMemcpyHtoDAsync_v2@{at}:719"])
def test_a_lost_device_ends_the_loader_with_its_name(dataset: Dataset, tmp_path: Path, at: int, kind: str) -> None:
    fault = f"lost@{at}" if kind == "lost" else kind.format(at=at)
    # What a lost context holds can't be given back; here only the calling code knows that it is lost.
    arguments = {"gpu_memory_limit": "32MB"}
    assert_ends_with_its_device(dataset, tmp_path, arguments, fault, allow="" if kind == "lost" else "leak")


@pytest.mark.simulator
def test_a_lost_device_is_an_error_for_who_asks_for_a_batchs_bytes(dataset: Dataset, tmp_path: Path) -> None:
    code = """
import ctypes
loader = open_loader(urls, cache, device="cuda", gpu_memory_limit="32MB")
batch = next(iter(loader))
assert ctypes.CDLL("libcuda.so.1").forebay_fake_configure(b"faults=lost@1+") == 0
for ask in (dict(dl_device=(1, 0)), dict(stream=1)):
    for _ in range(2):
        try:
            batch["label"].__dlpack__(**ask)
        except (forebay.DeviceError, BufferError) as error:
            said = str(error)
            assert "is lost" in said, said
say("told")
"""
    assert said(code, tmp_path, dataset).startswith("told")


def test_a_batch_may_be_dropped_inside_its_own_iteration(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    stream = consumer.stream()
    for batch in open_loader(dataset.urls, **{**CUDA, "gpu_memory_limit": 2 << 20}):
        taken = Taken(batch["image"].__dlpack__(stream=stream))
        batch.clear()
        del batch
        consumer.fill(taken.address, taken.bytes, stream)
        taken.release()


def test_a_loader_may_be_closed_while_batches_live(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer
) -> None:
    right = [np.asarray(batch["image"]).tobytes() for batch in open_loader(dataset.urls, fields=IMAGE)]
    stream = consumer.stream()
    loader = open_loader(dataset.urls, **CUDA)
    running = iter(loader)
    with driver.held():
        batches = [next(running) for _ in range(3)]
        taken = Taken(batches[0]["image"].__dlpack__(stream=stream))
        at = consumer.copy_out(taken.address, taken.bytes, stream)
        taken.release()
    loader.close()
    assert [consumer.bytes_of(batch["image"], stream) for batch in batches] == right[:3]
    assert ctypes.string_at(at, len(right[0])) == right[0]
    with pytest.raises(forebay.StateError):
        next(running)


def test_an_exception_in_the_consumer_frees_everything(dataset: Dataset, open_loader: OpenLoader) -> None:
    class Mine(Exception):
        pass

    def fails(loader: Any) -> None:
        for batch in loader:
            if batch.index == 2:
                raise Mine

    loader = open_loader(dataset.urls, **CUDA)
    for _ in range(3):
        with pytest.raises(Mine):
            fails(loader)
        gc.collect()
    assert sum(batch.valid for batch in loader) == 60


def test_a_stream_of_another_device_is_refused(dataset: Dataset, open_loader: OpenLoader, driver: Simulator) -> None:
    batch = next(iter(open_loader(dataset.urls, **CUDA)))
    with Consumer(1) as other:
        stream = other.stream()
        with pytest.raises(BufferError, match="another device"):
            batch["image"].__dlpack__(stream=stream)
        with pytest.raises(forebay.DeviceError, match="another device"):
            batch["image"].record_stream(stream)
    del batch


@pytest.mark.simulator
def test_two_loaders_share_a_device(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    """Of one cache folder and of two, and beside one of another device; one ends before the others."""
    loaders = [open_loader(dataset.urls, **CUDA) for _ in range(2)]
    loaders.append(open_loader(dataset.urls, **CUDA, cache_dir=tmp_path / "other"))
    loaders.append(open_loader(dataset.urls, **{**CUDA, "device": "cuda:1"}, cache_dir=tmp_path / "other"))
    for batches in zip(*loaders, strict=True):
        first, *others = [np.from_dlpack(batch["image"], device="cpu") for batch in batches]
        assert all((each == first).all() for each in others)
    del batches, first, others
    loaders.pop(0).close()
    for loader in loaders:
        assert sum(batch.valid for batch in loader) == 60


def test_a_stream_under_capture_is_left_alone(
    dataset: Dataset, open_loader: OpenLoader, borrowed: Borrowed, consumer: Consumer
) -> None:
    """The error says what to do instead, and the capture ends well; what is let go meanwhile is waited for all the same."""
    stream, other = consumer.stream(), consumer.stream()
    # global, thread-local, relaxed
    for mode in range(3):
        loader = open_loader(dataset.urls, **{**CUDA, "gpu_memory_limit": 2 << 20})
        running = iter(loader)
        batch = next(running)
        earlier = Taken(batch["image"].__dlpack__(stream=stream))
        beside = Taken(batch["image"].__dlpack__(stream=other))
        consumer.fill(earlier.address, earlier.bytes, other)
        consumer.capture(stream, mode)
        with borrowed():
            with pytest.raises(BufferError, match=r"captured.*copy the batch"):
                batch["image"].__dlpack__(stream=stream)
            with pytest.raises(forebay.DeviceError, match="captured"):
                batch["image"].record_stream(stream)
            beside.release()
            del batch
            # Batches are made, and memory is used again, while the capture goes on.
            for later in running:
                if later.index == 4:
                    break
            del later
        consumer.end_capture(stream)
        earlier.release()
        loader.close()


def test_what_is_let_go_in_a_capture_of_its_stream_is_used_again_behind_it(
    dataset: Dataset, open_loader: OpenLoader, borrowed: Borrowed, consumer: Consumer
) -> None:
    stream = consumer.stream()
    loader = open_loader(dataset.urls, **{**CUDA, "gpu_memory_limit": 2 << 20})
    running = iter(loader)
    batch = next(running)
    taken = Taken(batch["image"].__dlpack__(stream=stream))
    consumer.fill(taken.address, taken.bytes, stream)
    consumer.capture(stream, 0)
    with borrowed():
        taken.release()
        del batch
        gc.collect()
    consumer.end_capture(stream)
    for later in running:
        consumer.bytes_of(later["image"], stream)


FORK = """
loader = open_loader(urls, cache, device="cuda", gpu_memory_limit="32MB")
running = iter(loader)
batch = next(running)
label = batch["label"]
held = [label.__dlpack__(), label.__cuda_array_interface__]
sys.stdout.flush()
child = os.fork()
if child == 0:
    refused = 0
    for call in (lambda: next(running), lambda: iter(loader), loader.close, lambda: label.shape, lambda: label.__dlpack__(),
                 lambda: label.__dlpack__(dl_device=(1, 0)), lambda: label.__cuda_array_interface__,
                 lambda: label.record_stream(1), lambda: forebay.DataLoader(
                     urls, batch_size=2, fields={"label": forebay.Int("cls")}, cache_dir=cache + "-child", device="cuda",
                     gpu_memory_limit="32MB", cache_limit="1GB", host_memory_limit="256MB")):
        try:
            call()
        except forebay.ForkError as error:
            assert "spawn" in str(error), error
            refused += 1
    del call, held, label, batch, running, loader
    gc.collect()
    sys.exit(refused)
_, status = os.waitpid(child, 0)
say(os.waitstatus_to_exitcode(status), sum(each.valid for each in running) + batch.valid)
"""


def test_a_forked_child_gets_an_error_and_touches_nothing(dataset: Dataset, tmp_path: Path) -> None:
    log = tmp_path / "findings"
    assert said(FORK, tmp_path / "cache", dataset, log=str(log)) == "9 60\n"
    assert not log.exists(), log.read_text()


@pytest.mark.simulator
def test_a_process_may_be_killed_with_copies_in_flight(dataset: Dataset, tmp_path: Path) -> None:
    """The next one works on the same folder."""
    code = """
import ctypes
loader = open_loader(urls, cache, device="cuda", gpu_memory_limit="32MB")
running = iter(loader)
ctypes.CDLL("libcuda.so.1").forebay_fake_hold(1)
batches = [next(running), next(running)]
say("in flight")
wait()
"""
    with Child(code, tmp_path, *dataset.urls) as child:
        assert child.hear() == "in flight"
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
    again = 'say(sum(batch.valid for batch in open_loader(urls, cache, device="cuda", gpu_memory_limit="32MB")))'
    assert said(again, tmp_path, dataset) == "60\n"


def without(functions: list[str], folder: Path) -> str:
    """A folder with a driver that lacks functions: their names are others in a copy of it."""
    driver = Path(os.environ["LD_LIBRARY_PATH"], "libcuda.so.1").read_bytes()
    for function in functions:
        name = b"\0" + function.encode() + b"\0"
        assert name in driver, function
        driver = driver.replace(name, name[:-2] + b"?\0")
    folder.mkdir()
    (folder / "libcuda.so.1").write_bytes(driver)
    return str(folder)


@pytest.mark.simulator
def test_a_driver_that_lacks_a_function_is_too_old(dataset: Dataset, tmp_path: Path) -> None:
    lacks = without(["cuStreamGetCtx", "cuCtxSynchronize"], tmp_path / "driver")
    out = said(OPENS % "cuda", tmp_path / "cache", dataset, LD_LIBRARY_PATH=lacks)
    assert out.startswith("DeviceError")
    assert all(word in out for word in ("too old", "lacks cuCtxSynchronize, cuStreamGetCtx", "12.0 (525.60)")), out


@pytest.mark.simulator
@pytest.mark.parametrize("function", ["cuCtxRecordEvent", "cuMemMap"])
def test_a_driver_that_lacks_what_is_not_needed_will_do(dataset: Dataset, tmp_path: Path, function: str) -> None:
    code = """
loader = open_loader(urls, cache, device="cuda", gpu_memory_limit="32MB")
say(sum([len(batch["label"].__dlpack__(stream=-1) and batch["label"]) for batch in loader]), loader.stats().device["memory"])
"""
    out = said(code, tmp_path / "cache", dataset, LD_LIBRARY_PATH=without([function], tmp_path / "driver"))
    assert out == ("60 cuMemAlloc\n" if function == "cuMemMap" else "60 virtual memory\n")


def test_a_consumer_may_let_go_while_the_loader_waits_for_room(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    """Two batches fit, and the consumer's thread has both: the next one comes when another thread lets one go."""
    fields = {"image": forebay.Image("jpg", transform=[forebay.Resize((350, 350))])}
    loader = open_loader(dataset.urls, fields=fields, batch_size=2, device="cuda", gpu_memory_limit=2 << 20)
    running = iter(loader)
    held = [next(running), next(running)]
    begun = threading.Event()

    def lets_go() -> None:
        begun.wait()
        held.pop(0)

    thread = threading.Thread(target=lets_go)
    thread.start()
    begun.set()
    assert next(running).index == 2
    thread.join()
    held.clear()
