"""The simulated driver's own interface, by ctypes: what a test sets, counts and asks of it.

With FOREBAY_TEST_DRIVER=real the tests that need nothing of it run on NVIDIA's driver; `make gpu-check` does that.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Two devices, seen by every process that a test starts; findings are asked for, not printed.
os.environ.setdefault("FOREBAY_FAKE_CUDA_DEVICES", "2")
os.environ.setdefault("FOREBAY_FAKE_CUDA_QUIET", "1")

REAL = os.environ.get("FOREBAY_TEST_DRIVER") == "real"
REFUSED = (
    "the tests of the GPU path run on {wanted}, and libcuda.so.1 is {what}: `make test-gpu` builds the simulated one and puts it "
    "on LD_LIBRARY_PATH; `make gpu-check` runs on a real one what can"
)


def load() -> ctypes.CDLL:
    """The driver that the tests are to run on; an error where there is none, or another one."""
    wanted = "NVIDIA's driver" if REAL else "the simulated driver alone"
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(REFUSED.format(wanted=wanted, what=f"not found ({error})")) from None
    if hasattr(library, "forebay_fake_cuda_marker") == REAL:
        raise RuntimeError(REFUSED.format(wanted=wanted, what="another one"))
    if REAL:
        if status := library.cuInit(0):
            raise RuntimeError(f"cuInit: {status}")
        return library
    for name in ("forebay_fake_finding_count", "forebay_fake_leaks", "forebay_fake_counter"):
        getattr(library, name).restype = ctypes.c_uint64
    library.forebay_fake_findings_of.restype = ctypes.c_int64
    library.forebay_fake_take_findings.restype = ctypes.c_size_t
    library.forebay_fake_take_findings.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library


class Simulator:
    """The simulated machine of one test."""

    def __init__(self) -> None:
        self.library = load()

    def begin(self, settings: str = "") -> None:
        """A new machine, on which the driver is initialised, as it is once in a process."""
        self.library.forebay_fake_reset()
        self.configure(settings)
        assert self.library.cuInit(0) == 0

    def configure(self, settings: str) -> None:
        """Sets keys (`seed=3 bus_gbps=0.5`); what isn't named stays."""
        assert self.library.forebay_fake_configure(settings.encode()) == 0, settings

    def counter(self, name: str) -> int:
        """A count, such as `h2d_bytes`."""
        count = self.library.forebay_fake_counter(name.encode())
        assert count != 2**64 - 1, name
        return count

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work that is submitted meanwhile doesn't begin before a call waits for it."""
        self.library.forebay_fake_hold(1)
        try:
            yield
        finally:
            self.library.forebay_fake_hold(0)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Whatever is called meanwhile leaves the thread's contexts and capture mode as they were."""
        self.library.forebay_fake_enter()
        try:
            yield
        finally:
            assert self.library.forebay_fake_leave() == 1, self.take_findings()

    def take_findings(self) -> str:
        """What was found wrong since the last time, as text; empty where nothing was."""
        room = 1 << 16
        while True:
            text = ctypes.create_string_buffer(room)
            needed = self.library.forebay_fake_take_findings(text, room)
            if needed <= room:
                return text.value.decode()
            room = needed

    def count_of(self, kind: str) -> int:
        """How many findings there are of a kind."""
        count = self.library.forebay_fake_findings_of(kind.encode())
        assert count >= 0, kind
        return count

    def check(self) -> None:
        """Nothing was found, and everything was given back."""
        gc.collect()
        until(lambda: not threads("forebay-gpu"))
        found = self.take_findings()
        assert not found, found
        self.library.forebay_fake_leaks()
        left = self.take_findings()
        assert not left, left


def threads(name: str) -> list[str]:
    """The names of this process's threads that begin so."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            pass  # ended meanwhile
    return [each for each in names if each.startswith(name)]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
