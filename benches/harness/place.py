"""Where a run works: folders, programs, sizes. Everything that a workload needs and doesn't decide itself."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .measure import LeftOut

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# A multiple of the batches of 256: a peer that ends its epochs drops nothing, whichever way it shares shards out.
SAMPLES_PER_SHARD = 512


@dataclass(frozen=True)
class Place:
    """One run of the harness."""

    work: Path
    """Data and caches of this run, on the disk that is measured: emptied before and after each workload."""
    kept: Path
    """Photographs, which stay from run to run."""
    bin: Path
    """The measuring programs, built in release mode."""
    logs: Path
    """What programs say on standard error."""
    threads: int
    rounds: int
    small: bool
    """A quick pass that shows that everything works; its figures mean little."""
    full: bool = False
    """All cases, for `make bench-full`; otherwise those that a workload needs to make its point, in a few minutes."""
    results: Path | None = None
    """The folder of the run's results, for what a workload has beside its figures."""

    def scaled(self, usual: int, small: int, full: int | None = None) -> int:
        """By the scale of the run; `full` where that differs from the usual."""
        return small if self.small else full if self.full and full is not None else usual

    @property
    def few(self) -> int:
        """Rounds of a contender over which nothing is promised: all of them together cost more than half of a run's time."""
        return self.rounds if self.full else 1

    def empty(self, name: str) -> Path:
        """A folder of this name without anything in it."""
        clear(self.work / name)
        return self.work / name

    def remove(self, name: str) -> None:
        shutil.rmtree(self.work / name, ignore_errors=True)

    def photos(self, shards: int) -> list[Path]:
        """The demo's photographs in so many shards of SAMPLES_PER_SHARD."""
        from photos import cut

        return cut(self.kept / f"photos-{SAMPLES_PER_SHARD}", shards, SAMPLES_PER_SHARD)

    def copies(self, name: str, shards: list[Path], least_bytes: int) -> list[Path]:
        """These shards under other names, over and over, until they come to so many bytes: other objects for a loader,
        and no more room on disk."""
        folder = self.empty(name)
        total = 0
        made: list[Path] = []
        while total < least_bytes:
            for shard in shards:
                path = folder / f"copy-{len(made):06}.tar"
                os.link(shard, path)
                made.append(path)
                total += path.stat().st_size
        return made

    def drop_caches(self) -> None:
        """Empties the page cache, of everything: what comes next is cold."""
        os.sync()
        try:
            DROP_CACHES.write_text("3")
        except OSError as error:
            raise LeftOut(f"the page cache can't be dropped ({error.strerror}), which needs root") from error

    def program(self, name: str) -> str:
        """A measuring program."""
        path = self.bin / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is not built: cargo build --release -p forebay-bench")
        return str(path)

    def installed(self, name: str) -> str:
        """A program of this Python's environment, or of the system."""
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        if not found:
            raise FileNotFoundError(f"{name} is not installed")
        return found

    def lacks(self, name: str) -> str | None:
        """Why what needs this program is left out; None where it is installed."""
        return None if shutil.which(name) else f"{name} is not installed (apt-get install {name})"

    def peer(self, name: str) -> list[str]:
        """The command of a peer that is a Python program."""
        return [sys.executable, "-m", f"harness.peers.{name}"]


def warm(paths: list[Path]) -> None:
    """Brings files into the page cache."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(8 << 20):
                pass


def drop(paths: list[Path]) -> None:
    """Takes files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def may_drop_caches() -> bool:
    try:
        with DROP_CACHES.open("w"):
            return True
    except OSError:
        return False


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """This work folder for one run alone: two would measure each other, and empty each other's folders."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another run uses {work}; wait for it, or name another folder with --work") from None
        yield


def clear(folder: Path) -> None:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        raise OSError(f"{left} can't be removed; is something mounted there?")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
