"""Free memory that a virtual machine's host has taken back costs seconds to touch again, now more and now less. So that all
contenders find the same, a process holds it until a measurement begins.

python backed.py BYTES     touches so many, says so, and keeps them until it is ended
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE_BYTES = 4096


@contextmanager
def held(nbytes: int) -> Iterator[int]:
    """So many bytes, or what is free without emptying the page cache, are touched and held by a process, which is given;
    `release` ends it."""
    command = [sys.executable, __file__, str(min(nbytes, free() * 9 // 10))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def release(pid: int) -> None:
    """Ends the process that holds memory; returns when that is free."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [])
    finally:
        os.close(process)


def free() -> int:
    """Bytes of memory in which nothing is."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:"))


def main() -> None:
    nbytes = int(sys.argv[1]) // PAGE_BYTES * PAGE_BYTES
    with mmap.mmap(-1, max(nbytes, PAGE_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[::PAGE_BYTES] = bytes(len(memory) // PAGE_BYTES)
        print("held", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
