"""What a contender's process does around its work: settings in, clocks, output checked, one JSON object out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

# Reading what every worker takes costs more than a batch may.
LOOK_SECONDS = 0.1


class Meter:
    """Counts samples, wall and processor seconds inside `measure()`; what happens in `warm_up()` is checked, not counted. Worker
    processes count: their processor time, and their peaks in the peak RSS, shared pages once for each."""

    def __init__(self) -> None:
        self.samples: float = 0
        """Units of work: images, or gigabytes."""
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.born = clocks()
        """The clocks when the program began, its imports done."""
        self.first_batch_seconds: float | None = None
        """From there to the first batch."""
        self.extra: dict[str, Any] = {}
        self.source: Any = None
        """Keeps the peer's pipeline until the process ends, as taking one down can hang, and is not measured."""
        self._counting = False
        self._outputs: set[tuple[tuple[int, ...], str]] = set()
        self._worker_peaks: dict[int, int] = {}
        self._looked = 0.0

    @contextmanager
    def measure(self, since: tuple[float, float] | None = None) -> Iterator[None]:
        """What happens inside counts; `since`: from these clocks on."""
        self._counting = True
        cpu, start = since or clocks()
        yield
        end = time.perf_counter()
        self.seconds += end - start
        self.cpu_seconds += cpu_seconds() - cpu
        self._counting = False
        self._look_at_workers(end)

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        yield

    def batch(self, shape: Any, dtype: str) -> None:
        """Notes a batch that was delivered."""
        shape = tuple(int(extent) for extent in shape)
        now = time.perf_counter()
        if self.first_batch_seconds is None:
            self.first_batch_seconds = now - self.born[1]
        self._outputs.add((shape, dtype))
        if now - self._looked >= LOOK_SECONDS:
            self._look_at_workers(now)
        self.count(shape[0])

    def count(self, samples: float) -> None:
        """Adds them, where they are to be counted."""
        if self._counting:
            self.samples += samples

    def _look_at_workers(self, now: float) -> None:
        self._looked = now
        for worker in workers(os.getpid()):
            self._worker_peaks[worker] = status("VmHWM", worker)

    def answer(self) -> dict[str, Any]:
        (output, *others) = sorted(self._outputs) or [((), "nothing")]
        if others:
            raise SystemExit(f"batches differ in shape or dtype: {output}, {others}")
        answer = {"output": {"shape": list(output[0]), "dtype": output[1]}, **self.extra}
        if not self.seconds:  # Nothing was to be measured.
            return answer
        if self.first_batch_seconds is not None:
            answer["first_batch_seconds"] = self.first_batch_seconds
        return {
            "value": self.samples / self.seconds,
            "samples": self.samples,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_rss_bytes": status("VmHWM") + sum(self._worker_peaks.values()),
            **answer,
        }


def epochs(settings: dict[str, Any], meter: Meter, batches: Callable[[], Iterable[tuple[Any, Any]]]) -> None:
    """Takes an epoch's batches (arrays or tensors with their labels) to warm up, or only the first `warm_up_batches` of the
    settings where they are an endless stream's; then the measured epochs'. With `cold`, one epoch, measured from the program's
    beginning. With `check` only the first batch, into a file of that name, for the harness to compare."""
    meter.source = batches
    if settings.get("check"):
        array, labels = next(iter(batches()))
        delivered(meter, array, labels)
        keep(settings["check"], array)
        return
    most = settings.get("warm_up_batches")
    for phase in phases(settings, meter):
        with phase:
            for array, labels in islice(batches(), most):
                delivered(meter, array, labels)
        most = None
    meter.extra |= resident([os.getpid(), *workers(os.getpid())])


def phases(settings: dict[str, Any], meter: Meter) -> list[AbstractContextManager[None]]:
    """A context for each epoch: one that warms up and those that are measured, or, with `cold`, the first alone."""
    if settings.get("cold"):
        return [meter.measure(since=meter.born)]
    return [meter.warm_up(), *(meter.measure() for _ in range(settings["epochs"]))]


def delivered(meter: Meter, array: Any, labels: Any) -> None:
    if len(labels) != len(array):
        raise SystemExit(f"a batch has {len(array)} samples and {len(labels)} labels")
    meter.batch(array.shape, str(array.dtype).removeprefix("torch."))


def keep(path: str, array: Any) -> None:
    """Writes a batch for the harness, as .npy."""
    import numpy

    numpy.save(path, numpy.asarray(array))


def converted(settings: dict[str, Any], convert: Callable[[str], None]) -> str:
    """The folder with the dataset in a peer's own format, which `convert` writes unless an earlier run has."""
    folder = Path(settings["converted"])
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        convert(str(partial))
        partial.rename(folder)
    return str(folder)


def members(shards: list[str], *suffixes: str) -> Iterator[tuple[bytes, ...]]:
    """The samples' members with these suffixes, in storage order, for a peer with a format of its own."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            sample: dict[str, bytes] = {}
            for member in tar:
                file = tar.extractfile(member)
                assert file
                sample[member.name.partition(".")[2]] = file.read()
                if sample.keys() >= set(suffixes):
                    yield tuple(sample[suffix] for suffix in suffixes)
                    sample = {}


def clocks() -> tuple[float, float]:
    """Processor seconds and the time."""
    return cpu_seconds(), time.perf_counter()


def cpu_seconds() -> float:
    """User and system time of this process and of its workers, those that have ended included."""
    ticks = 0
    for pid in [os.getpid(), *workers(os.getpid())]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:  # It ended just now, and is counted with its parent's ended children.
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def workers(pid: int) -> list[int]:
    """The processes below this one, at any depth."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *workers(child)]
    return found


def status(name: str, pid: int | None = None, file: str = "status") -> int:
    """A size of a process (this one's, where none is named), as /proc/PID/status has it, in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid or os.getpid()}/{file}").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    if pid:
        return 0
    raise LookupError(f"/proc/self/{file} has no {name}")


def resident(processes: list[int]) -> dict[str, int]:
    """What processes hold now: `pss_bytes`, where a page counts once however many share it, and `rss_bytes`, once for each."""
    return {
        f"{name.lower()}_bytes": sum(status(name.capitalize(), process, "smaps_rollup") for process in processes)
        for name in ("pss", "rss")
    }


def main(run: Callable[[dict[str, Any], Meter], None]) -> None:
    """Runs a peer with the settings of the first argument, and prints its answer as the last line."""
    settings = json.loads(sys.argv[1])
    meter = Meter()
    run(settings, meter)
    print(json.dumps(meter.answer()), flush=True)
    # What a library's threads and workers do at exit is not part of the measurement.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers(os.getpid()):
        try:
            os.kill(worker, signal.SIGTERM)
        except ProcessLookupError:  # It ended just now.
            pass
    os._exit(0)
