"""A workload's parts: what was measured before an interrupt or a part that can't begin is kept, and what is missing is said."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
from collections.abc import Callable
from ctypes import c_float, c_size_t, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic
from harness import __main__ as harness
from harness import child, measure, s3, schema
from harness.measure import Answer, Contender, LeftOut, rows, take_turns
from harness.peers import pinned_copies
from harness.place import Place
from harness.workloads import jpeg_training, memory_copies, mounted_bucket, ranks, startup, threads


class Here(Place):
    """With shards that nobody reads."""

    def photos(self, shards: int) -> list[Path]:
        made = [self.kept / f"{at}.tar" for at in range(shards)]
        for path in made:
            path.write_bytes(b"tar")
        return made

    def program(self, name: str) -> str:
        return name


@pytest.fixture
def here(tmp_path: Path) -> Here:
    for name in ("work", "kept", "logs"):
        (tmp_path / name).mkdir()
    return Here(tmp_path / "work", tmp_path / "kept", tmp_path, tmp_path / "logs", threads=2, rounds=3, small=False)


@pytest.fixture(autouse=True)
def not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "stopped", threading.Event())


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def after(calls: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with an interrupt after so many calls."""
    left = [None] * calls

    def call(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return work(*arguments)

    return call


def turns(contenders: list[Contender], rounds: int, case: str = "") -> list[Answer]:
    """In place of the contenders' own."""
    name = contenders[0].name
    return synthetic.runs(name, [0.5] * rounds, case, **({"from_iter_seconds": 0.1} if case == startup.WARM else {}))


@pytest.mark.parametrize("workload", [startup, ranks, threads])
def test_an_interrupt_between_two_parts_keeps_what_was_measured(
    workload: Any, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "take_turns", turns)
    monkeypatch.setattr(s3, "indexed", lambda *_: [])
    if workload is startup:
        kept = [startup.IMPORT, startup.FIRST_IMPORT]
        monkeypatch.setattr(s3, "serving", interrupt)
    elif workload is ranks:
        kept = [ranks.COLD]
        monkeypatch.setattr(ranks, "execute", interrupt)
    else:
        kept = ["1 thread"]
        monkeypatch.setattr(threads, "execute", lambda *_: {})
        monkeypatch.setattr(threads, "program", after(2, measure.program))

    result = harness.run(workload, here)

    assert result
    assert result["partial"] == "interrupted: fewer runs than planned"
    assert [row["case"] for row in result["rows"]] == kept
    head = {"schema": schema.VERSION, "workload": "it", "title": "It", "small": False}
    schema.check_workload({**head, **result}, "it")
    assert list((here.work).iterdir()) == []


def test_a_part_of_start_up_without_its_server_leaves_the_others(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_server(*_: Any) -> Any:
        raise FileNotFoundError("weed is not installed")

    monkeypatch.setattr(startup, "take_turns", turns)
    monkeypatch.setattr(startup, "execute", lambda *_: {"state": {"dataset": {"samples": 2048}}})
    monkeypatch.setattr(s3, "indexed", lambda *_: [])
    monkeypatch.setattr(s3, "serving", no_server)
    result = harness.run(startup, here)
    assert result
    by = {row["case"]: row for row in result["rows"]}
    assert by[startup.COLD]["errors"] == ["FileNotFoundError: weed is not installed"]
    assert by[startup.WARM]["runs"] == by[startup.PLAN]["runs"] == 3
    assert f"{startup.WARM}: {startup.RESUMED}" in result["commands"]


def test_what_can_not_be_imported_for_want_of_its_package_says_why(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "refused", lambda package: "no wheel for this machine" if package == "torch" else None)
    monkeypatch.setattr(startup, "execute", lambda *_: {"value": 0.1, "seconds": 0.1})
    monkeypatch.setattr(Place, "drop_caches", lambda _: None)
    for contenders in (startup.imports(here, here.logs / "log"), startup.first_imports(here, here.logs / "log")):
        table = {row["contender"]: row for row in rows(take_turns(contenders, 1), "s", "less")}
        assert table["torch"]["errors"] == ["Failed: torch does not install: no wheel for this machine"]
        assert table[startup.OURS]["runs"] == 1


@pytest.fixture
def no_rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the environment of Python nor in the system."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shutil.which("rclone") is None


@pytest.mark.usefixtures("no_rclone")
def test_without_rclone_its_rows_are_failed_and_the_others_stay(here: Here, tmp_path: Path) -> None:
    server: Any = SimpleNamespace(pid=os.getpid(), url="http://127.0.0.1:1", region="here", storage_options={})
    shards, log = here.photos(2), here.logs / "log"
    good = Contender("forebay", lambda _: {"value": 2.0, "seconds": 1.0})
    downloads = s3.downloads(here, server, shards, here.work / "files", log)
    mount = mounted_bucket.mounted(here, server, shards, log, cached=True)
    for theirs in (jpeg_training.in_images(downloads[0], 100), mount):
        table = {row["contender"]: row for row in rows(take_turns([theirs, good], 2), "GB/s")}
        assert table[theirs.name]["errors"] == ["FileNotFoundError: rclone is not installed"]
        assert table["forebay"]["runs"] == 2


def test_torch_workers_are_left_out_from_the_origin_without_curl(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    workers = ranks.peer(here, 2, {"cold": True}, here.logs / "log")
    with pytest.raises(LeftOut, match="curl is not installed"):
        workers.go(0)


def test_an_endless_stream_is_warmed_up_by_the_first_of_its_batches(tmp_path: Path) -> None:
    endless = iter(range(100))
    taken: list[int] = []

    def batches() -> Any:
        for _ in range(6):
            taken.append(next(endless))
            yield np.zeros((4, 2), np.uint8), [0] * 4

    meter = child.Meter()
    child.epochs({"epochs": 2, "warm_up_batches": 2}, meter, batches)
    assert meter.answer()["samples"] == 2 * 6 * 4
    # The generator may have been asked for one more; what was not delivered was not counted.
    assert len(taken) in (14, 15)


class Driver:
    """As much of NVIDIA's driver as copies need, in host memory. A copy takes a millisecond by its events' clock."""

    def __init__(self, devices: int = 1, breaks: str | None = None, torn: bool = False) -> None:
        self.devices, self.breaks, self.torn = devices, breaks, torn
        self.milliseconds = 0.0
        self.held: dict[int, Any] = {}
        self.begun: dict[int, float] = {}
        self.calls: list[str] = []

    def __getitem__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.breaks:
                return 2
            return getattr(self, name.removesuffix("_v2"), lambda *_: 0)(*arguments) or 0

        return call

    def cuInit(self, _: int) -> int:
        return 0 if self.devices else pinned_copies.NO_DEVICE

    def cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def cuDeviceGetName(self, name: Any, *_: Any) -> None:
        name.value = b"A simulated device"

    def cuGetErrorString(self, _: int, said: Any) -> None:
        said._obj.value = b"out of memory"

    def cuMemHostAlloc(self, pointer: Any, size: c_size_t, _: Any) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.held[pointer._obj.value] = buffer

    def cuMemAlloc(self, pointer: Any, size: c_size_t) -> None:
        self.cuMemHostAlloc(pointer, size, None)

    def cuMemFree(self, pointer: Any) -> None:
        del self.held[pointer.value]

    cuMemFreeHost = cuMemFree

    def cuEventCreate(self, event: Any, _: Any) -> None:
        event._obj.value = len(self.begun) + 1
        self.begun[event._obj.value] = 0.0

    def cuEventRecord(self, event: c_void_p, _: Any) -> None:
        self.begun[event.value or 0] = self.milliseconds

    def cuEventElapsedTime(self, found: Any, start: c_void_p, end: c_void_p) -> None:
        assert isinstance(found._obj, c_float)
        found._obj.value = self.begun[end.value or 0] - self.begun[start.value or 0]

    def cuMemcpyHtoDAsync(self, there: Any, host: Any, size: c_size_t, _: Any) -> None:
        self.milliseconds += 1.0
        if not self.torn:
            ctypes.memmove(there.value, host.value, size.value)

    def cuMemcpyDtoH(self, host: Any, there: Any, size: c_size_t) -> None:
        ctypes.memmove(host, there.value, size.value)


def copies(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    meter = child.Meter()
    pinned_copies.run({"bytes": 2 << 20, "times": 5}, meter)
    return meter.answer()


def test_copies_to_a_device_are_timed_by_its_events_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    answer = copies(driver, monkeypatch)
    assert answer["device"] == "A simulated device"
    assert answer["seconds"] == pytest.approx(0.005)
    assert answer["value"] == pytest.approx(5 * (2 << 20) / 1e9 / 0.005)
    assert driver.held == {}
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease_v2"
    with pytest.raises(SystemExit, match="is not what was copied"):
        copies(Driver(torn=True), monkeypatch)


def test_a_driver_s_refusal_is_an_error_and_no_driver_or_device_a_reason_to_leave_out(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(breaks="cuMemAlloc_v2")
    with pytest.raises(pinned_copies.Refused, match="cuMemAlloc_v2: out of memory"):
        copies(driver, monkeypatch)
    assert driver.held == {}, "what was taken before is given back"
    assert copies(Driver(devices=0), monkeypatch)["left_out"] == "the NVIDIA driver has no device here"
    monkeypatch.undo()
    monkeypatch.setattr(pinned_copies, "LIBRARY", "libnone.so.1")
    meter = child.Meter()
    pinned_copies.run({}, meter)
    assert meter.extra["left_out"].startswith("no NVIDIA driver: libnone.so.1: cannot open")

    def answers(command: list[str], *_: Any) -> Answer:
        if "harness.peers.pinned_copies" in command:
            return {"left_out": "no NVIDIA driver: libcuda.so.1"}
        return {"value": 10.0, "seconds": 1.0}

    monkeypatch.setattr(memory_copies, "execute", answers)
    monkeypatch.setattr(measure, "execute", answers)
    monkeypatch.setattr(measure, "stopped", threading.Event())
    result = harness.run(memory_copies, here)
    assert result
    table = {row["case"]: row for row in result["rows"]}
    assert table[memory_copies.TO_DEVICE]["left_out"] == "no NVIDIA driver: libcuda.so.1"
    assert table["1 thread"]["runs"] == 3
    assert not harness.failed(result)
