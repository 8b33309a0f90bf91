"""fio: what the disk gives when files are read whole, in order, past the page cache."""

from __future__ import annotations

import json
from pathlib import Path

from .measure import Answer, execute

# Bytes per read, and reads in flight.
SETTINGS = [(1 << 20, 32), (4 << 20, 32), (8 << 20, 64)]
# Huge pages for its buffers: of small ones a virtual disk's request took 254, a megabyte, and it was read at half of its speed.
HUGE_PAGES = ["env", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"]


def fastest(files: list[Path], answer: Path, log: Path) -> list[str]:
    """The command that reads these files fastest, of those that are worth trying."""
    commands = [whole(files, *setting, answer) for setting in SETTINGS]
    return max(commands, key=lambda command: float(read(command, log)["value"]))


def whole(files: list[Path], block_bytes: int, depth: int, answer: Path) -> list[str]:
    """The command that reads every file once."""
    names = [str(file).replace(":", "\\:") for file in files]
    return [
        *HUGE_PAGES, "fio", "--readonly", "--direct=1", "--ioengine=io_uring", "--fixedbufs=1", "--registerfiles=1",
        "--rw=read", "--file_service_type=sequential", f"--bs={block_bytes}", f"--iodepth={depth}",
        "--output-format=json", f"--output={answer}", "--name=reads", f"--filename={':'.join(names)}",
    ]  # fmt: skip


def read(command: list[str], log: Path) -> Answer:
    """Runs it, and takes what it says from the file that it names."""
    execute(command, log)
    [answer] = [Path(option.partition("=")[2]) for option in command if option.startswith("--output=")]
    [job] = json.loads(answer.read_text())["jobs"]
    seconds = job["job_runtime"] / 1e3
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds
    return {"value": job["read"]["io_bytes"] / 1e9 / seconds, "seconds": seconds, "cpu_seconds": cpu}
