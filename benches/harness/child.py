"""What a contender's process does around its work: settings in, clocks, output checked, one JSON object out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Meter:
    """Counts samples, wall and processor seconds inside `measure()`; what happens in `warm_up()` is checked, not counted."""

    def __init__(self) -> None:
        self.samples: float = 0
        """Units of work: images, or gigabytes."""
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.extra: dict[str, Any] = {}
        self._counting = False
        self._outputs: set[tuple[tuple[int, ...], str]] = set()

    @contextmanager
    def measure(self) -> Iterator[None]:
        self._counting = True
        cpu, start = time.process_time(), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.process_time() - cpu
        self._counting = False

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        yield

    def batch(self, shape: Any, dtype: str) -> None:
        """Notes a batch that was delivered."""
        shape = tuple(int(extent) for extent in shape)
        self._outputs.add((shape, dtype))
        if self._counting:
            self.samples += shape[0]

    def answer(self) -> dict[str, Any]:
        (output, *others) = sorted(self._outputs) or [((), "nothing")]
        if others:
            raise SystemExit(f"batches differ in shape or dtype: {output}, {others}")
        return {
            "value": self.samples / self.seconds,
            "samples": self.samples,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_rss_bytes": status("VmHWM"),
            "output": {"shape": list(output[0]), "dtype": output[1]},
            **self.extra,
        }


def status(name: str) -> int:
    """A size of this process, as /proc/self/status has it, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {name}")


def main(run: Callable[[dict[str, Any], Meter], None]) -> None:
    """Runs a peer with the settings of the first argument, and prints its answer as the last line."""
    settings = json.loads(sys.argv[1])
    meter = Meter()
    run(settings, meter)
    print(json.dumps(meter.answer()), flush=True)
    # What a library's threads do at exit is not part of the measurement.
    os._exit(0)
