"""Epochs of a loader to the device, and whether its batches are those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..measure import Answer, execute
from ..place import SAMPLES_PER_SHARD, Place, warm

# What the peer is told beside what all of them are. JPEG decoding by nvJPEG becomes two more, with `decode_on`.
EPOCHS: dict[str, dict[str, Any]] = {
    "decoded_on_host": {"device": "cpu"},
    "decoded_on_host_to_device": {},
    "converted_on_host": {"device": "cpu", "convert": True},
    "decoded_on_host_converted_on_device": {"convert": True},
}
# What a loader on the device is compared with: what differs on that side.
COMPARED: dict[str, dict[str, Any]] = {
    "copied": {},
    "by_channel": {"layout": "NCHW"},
    "normalised_float32": {"dtype": "float32"},
    "normalised_float16_channels_last": {"dtype": "float16", "layout": "channels_last"},
    "normalised_float16_by_channel": {"dtype": "float16", "layout": "NCHW"},
}


def measure(place: Place) -> Answer:
    """Images/s, stalls and bytes on the bus, each in a process of its own, from the page cache's shards."""
    shards = photographs(place)
    log = place.logs / "loading.log"
    settings = {
        "shards": [str(shard) for shard in shards],
        "batch_size": place.scaled(256, 8),
        "threads": place.threads,
        "epochs": place.scaled(5, 1),
        "cache_dir": str(place.empty("cache")),
        "host_memory_limit": "2GB" if not place.small else "256MB",
        "device": "cuda:0",
    }
    warm(shards)
    return {name: epochs(place, {**settings, **more}, log) for name, more in EPOCHS.items()}


def epochs(place: Place, settings: dict[str, Any], log: Path) -> Answer:
    answer = execute([*place.peer("forebay_device"), json.dumps(settings)], log)
    found = {
        "images_per_second": answer["value"],
        "images": answer["samples"],
        "output": answer["output"],
        "stall_seconds": answer["stall_seconds"],
        "threads": settings["threads"],
    }
    if device := answer["device"]:
        bytes_ = {"copied_bytes": device["copied_bytes"], "batches_bytes": answer["decoded_bytes"]}
        found |= {
            **bytes_,
            "exact": bytes_["copied_bytes"] == bytes_["batches_bytes"],
            "copy_path": device["copy_path"],
        }
    return found


def compare(place: Place) -> Answer:
    """The same epoch on the device and on the CPU: whether every number is equal, and, where not, by how much they differ.
    nvJPEG's difference in levels is one more entry of COMPARED."""
    settings = {
        "shards": [str(shard) for shard in photographs(place)[:1]],
        "batch_size": place.scaled(64, 8),
        "threads": place.threads,
        "cache_dir": str(place.empty("cache-compared")),
        "device": "cuda:0",
    }
    log = place.logs / "compared.log"
    return {
        name: execute([*place.peer("forebay_compared"), json.dumps({**settings, **more})], log)["difference"]
        for name, more in COMPARED.items()
    }


def photographs(place: Place) -> list[Path]:
    if not place.small:
        return place.photos(8)
    from photos import cut

    return cut(place.kept / "photos-small", 1, SAMPLES_PER_SHARD // 16)
