"""Epochs over samples that stay decoded in host memory, against copies of as many bytes and the epoch that decodes them."""

from __future__ import annotations

import json

from ..measure import Answer, Contender, execute, peaks, program, ratio, rows, take_turns, target
from ..place import SAMPLES_PER_SHARD, Place, warm
from .jpeg_training import BATCH, checked

TITLE = "Decoded samples in host memory (256 px, random crop 224, flip, batches of 256)"
NEED_BYTES = 2 << 30

LIMIT = "limit: memcpy of as many bytes"
FIRST = "forebay, first epoch"
# Of one image of a batch.
IMAGE_BYTES = 224 * 224 * 3
LEAST_OF_MEMCPY, LEAST_OF_FIRST = 0.8, 12.0
HOST_MEMORY_BYTES = 4_000_000_000


def run(place: Place) -> Answer:
    shards = place.photos(place.scaled(4, 2, full=8))
    warm(shards)
    log = place.logs / "decoded_tier.log"
    settings = {
        "shards": [str(shard) for shard in shards],
        # Whole batches, so that all have one shape.
        "samples": SAMPLES_PER_SHARD * len(shards),
        "batch_size": BATCH,
        "threads": place.threads,
        "epochs": place.scaled(20, 2),
        "cache_dir": str(place.empty("decoded-cache")),
        "decoded_limit": "1500MB",
        "host_memory_limit": f"{HOST_MEMORY_BYTES // 10**6}MB",
    }
    ours = [*place.peer("forebay_decoded"), json.dumps(settings)]
    first = [*place.peer("forebay_decoded"), json.dumps({**settings, "cold": True})]
    copies = [place.program("limits"), f"--threads={place.threads}", "copy", f"--times={place.scaled(64, 4)}"]
    # Brings the shards to NVMe, so that no first epoch waits for the origin.
    execute(first, log)
    contenders = [
        program("forebay", ours, log, checked),
        program(FIRST, first, log, checked),
        Contender(LIMIT, lambda _: as_images(execute(copies, log)), copies),
    ]
    runs = take_turns(contenders, place.rounds)
    place.remove("decoded-cache")
    table = rows(runs, "images/s")
    of_memcpy, of_first = ratio(table, "forebay", [LIMIT]), ratio(table, "forebay", [FIRST])
    return {
        "unit": "images/s",
        "conditions": (
            f"{len(shards)} shards of {SAMPLES_PER_SHARD} photographs, shorter side 256 once decoded; a process per run. The "
            "first epoch reads from NVMe and decodes; the others take what stays of it, which is checked. The limit copies "
            f"buffers of 64 MiB, each thread its own; an image stands for the {IMAGE_BYTES} bytes that a batch has of it."
        ),
        "page_cache": "plays no part: forebay reads with O_DIRECT, and in the later epochs not at all.",
        "settings": settings,
        "commands": {"forebay": ours, FIRST: first, LIMIT: copies},
        "runs": runs,
        "rows": table,
        "targets": [
            target("images/s over memcpy of as many bytes", of_memcpy and of_memcpy[0], least=LEAST_OF_MEMCPY),
            target("images/s over those of the first epoch", of_first and of_first[0], least=LEAST_OF_FIRST),
            *peaks(table, HOST_MEMORY_BYTES),
        ],
        "limits": {"": LIMIT},
    }


def as_images(copied: Answer) -> Answer:
    """Gigabytes per second as images per second."""
    return {**copied, "value": copied["value"] * 1e9 / IMAGE_BYTES}
