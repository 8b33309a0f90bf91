"""Epochs of a loader to the device, and whether its batches are those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..measure import Answer, execute
from ..place import SAMPLES_PER_SHARD, Place, warm

# What decoders make of a photograph and its label, whatever the device makes of it.
IMAGE_BYTES, LABEL_BYTES = 224 * 224 * 3, 8

# What the peer is told beside what all of them are.
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
    settings, log = usual(place, photographs(place)), place.logs / "loading.log"
    found = {}
    for name, more in EPOCHS.items():
        answer = epochs(place, {**settings, **more}, log)
        found[name] = figures(answer)
        if answer["device"]:
            found[name] |= bus(answer["device"]["copied_bytes"], answer["rows"] * (IMAGE_BYTES + LABEL_BYTES))
    return found


def usual(place: Place, shards: list[Path]) -> dict[str, Any]:
    """What all peers that deliver epochs are told. The shards are brought into the page cache."""
    warm(shards)
    return {
        "shards": [str(shard) for shard in shards],
        "batch_size": place.scaled(256, 8),
        "threads": place.threads,
        "epochs": place.scaled(5, 2),
        "cache_dir": str(place.empty("cache")),
        "host_memory_limit": "2GB" if not place.small else "256MB",
        "device": "cuda:0",
    }


def epochs(place: Place, settings: dict[str, Any], log: Path) -> Answer:
    return execute([*place.peer("forebay_device"), json.dumps(settings)], log)


def figures(answer: Answer) -> Answer:
    """Of the measured epochs."""
    found = {
        "images_per_second": answer["value"],
        "images": answer["samples"],
        "output": answer["output"],
        "stall_seconds": answer["stall_seconds"],
    }
    return found | ({"copy_path": answer["device"]["copy_path"]} if answer["device"] else {})


def bus(copied: int, due: int) -> Answer:
    """What crossed the bus beside what had to."""
    return {"copied_bytes": copied, "due_bytes": due, "exact": copied == due}


def compare(place: Place) -> Answer:
    """The same epoch on the device and on the CPU: whether every number is equal, and, where not, by how much they differ."""
    settings = compared(place)
    return {name: beside(place, {**settings, **more})["difference"] for name, more in COMPARED.items()}


def compared(place: Place) -> dict[str, Any]:
    """What all peers that compare are told. Their two loaders share the memory: each finds a quarter of it for its batches."""
    return {
        "shards": [str(shard) for shard in photographs(place)[:1]],
        "batch_size": place.scaled(64, 8),
        "threads": place.threads,
        "cache_dir": str(place.empty("cache-compared")),
        "host_memory_limit": "4GB" if not place.small else "2GB",
        "device": "cuda:0",
    }


def beside(place: Place, settings: dict[str, Any]) -> Answer:
    return execute([*place.peer("forebay_compared"), json.dumps(settings)], place.logs / "compared.log")


def photographs(place: Place) -> list[Path]:
    if not place.small:
        return place.photos(8)
    from photos import cut

    return cut(place.kept / "photos-small", 1, SAMPLES_PER_SHARD // 16)
