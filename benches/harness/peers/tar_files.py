"""Every JPEG of tar files as bytes, by Python's tarfile, several files at once: what a mounted bucket is read with."""

from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..child import Meter, main


def run(settings: dict[str, Any], meter: Meter) -> None:
    with meter.measure(), ThreadPoolExecutor(settings["threads"]) as pool:
        total = sum(pool.map(images, settings["files"]))
    meter.samples = total / 1e9
    meter.extra["bytes"] = total


def images(path: str) -> int:
    """Their bytes."""
    total = 0
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                file = tar.extractfile(member)
                assert file
                total += len(file.read())
    return total


if __name__ == "__main__":
    main(run)
