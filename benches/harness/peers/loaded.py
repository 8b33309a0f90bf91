"""Loading weights: what every peer does around it, and whether each tensor's bytes are those that were written."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import backed
from ..child import Meter, status
from ..syncfs import syncfs

Tensors = Mapping[str, Any]


def measure(settings: dict[str, Any], meter: Meter, load: Callable[[], Tensors]) -> None:
    """Loads once, measured, imports done; with `warm_up`, once before, and lets that go. With `synced`, measured up to the end of
    a syncfs of that folder. Then checks the tensors against the file of checksums that the settings name."""
    meter.extra["imported_rss_bytes"] = status("VmRSS")
    if settings.get("warm_up"):
        load()
    backed.release(settings["holder"])
    with meter.measure():
        tensors = load()
        if folder := settings.get("synced"):
            syncfs(folder)
    meter.source = tensors
    meter.samples = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
    meter.extra["tensors"] = len(tensors)
    check(tensors, Path(settings["checksums"]))


def check(tensors: Tensors, checksums: Path) -> None:
    """Ends the process where a tensor is missing, or has other bytes than were written."""
    written: dict[str, int] = json.loads(checksums.read_text())
    if tensors.keys() != written.keys():
        raise SystemExit(f"other tensors than were written: {sorted(tensors.keys() ^ written.keys())[:4]}")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, checksum in zip(tensors, pool.map(checksum_of, tensors.values()), strict=True):
            if checksum != written[name]:
                raise SystemExit(f"{name} has other bytes than were written")


def checksum_of(tensor: Any) -> int:
    """CRC-32 of a tensor's bytes, which have to be its own: in order, and writable."""
    import torch

    if not tensor.is_contiguous() or tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu":
        raise SystemExit(f"a tensor is {tensor.dtype} on {tensor.device}, contiguous: {tensor.is_contiguous()}")
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy())
