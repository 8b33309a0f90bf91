"""Memory: the peak on a dataset five times host_memory_limit, cold and warm, and what is resident over many epochs."""

from __future__ import annotations

import json
import statistics
from typing import Any

from ..measure import ALLOWANCE_BYTES, Contender, execute, rows, take_turns, target
from ..place import Place

TITLE = "Memory (peak RSS, and resident memory over 20 epochs)"
NEED_BYTES = 3 << 30

LIMIT_BYTES = 256_000_000
# Four batches of 256 photographs, with what else is needed at least, take more than that limit.
BATCH = 128
EPOCHS = 20
LARGE = "forebay, dataset of 5 × the limit, cold and warm"
SMALL = f"forebay, {EPOCHS} epochs of a small dataset"
# The first epochs warm up the allocator.
SETTLED = 5
# Of resident memory between the settled epochs' first and last five: pages that come and go.
NOISE_BYTES = 8_000_000


def run(place: Place) -> dict[str, Any]:
    shards = place.photos(place.scaled(8, 2))
    log = place.logs / "memory.log"
    large = place.copies("memory-large", shards, 5 * LIMIT_BYTES)
    settings = {"threads": place.threads, "host_memory_limit": LIMIT_BYTES, "batch_size": BATCH}

    def contender(name: str, **more: Any) -> Contender:
        command = [*place.peer("forebay_memory"), json.dumps({**settings, **more})]
        return Contender(name, lambda _: execute(command, log), command)

    contenders = [
        contender(
            LARGE,
            shards=[str(path) for path in large],
            epochs=2,
            cache_dir=str(place.empty("memory-cache-large")),
        ),
        contender(
            SMALL,
            shards=[str(path) for path in shards[:2]],
            epochs=EPOCHS,
            cache_dir=str(place.empty("memory-cache-small")),
        ),
    ]
    runs = take_turns(contenders, 1)
    for folder in ("memory-large", "memory-cache-large", "memory-cache-small"):
        place.remove(folder)
    series = {entry["contender"]: entry.get("series") for entry in runs}
    peaks = {entry["contender"]: entry.get("peak_rss_bytes") for entry in runs}
    peak = peaks.get(LARGE)
    return {
        "unit": "images/s",
        "conditions": (
            f"host_memory_limit {LIMIT_BYTES / 1e6:.0f} MB; batches of {BATCH}; the same photographs under several "
            "names. The first epoch of each reads from a local origin into an empty cache folder, the others from "
            "NVMe. Peak RSS (VmHWM) is of the whole process, Python included; the series is VmRSS after each epoch."
        ),
        "page_cache": "plays no part: the cache folder is read with O_DIRECT.",
        "settings": settings,
        "commands": {contender.name: contender.command for contender in contenders},
        "runs": runs,
        "rows": rows(runs, "images/s"),
        "series": series,
        "targets": [
            target(
                "MB of peak RSS over host_memory_limit",
                None if peak is None else (peak - LIMIT_BYTES) / 1e6,
                most=ALLOWANCE_BYTES / 1e6,
            ),
            target(
                f"MB of growth over {EPOCHS} epochs, once settled",
                growth(series.get(SMALL)),
                most=NOISE_BYTES / 1e6,
            ),
        ],
    }


def growth(series: list[int] | None) -> float | None:
    """Megabytes between the medians of the first and of the last settled epochs."""
    if not series or len(series) < 2 * SETTLED:
        return None
    settled = series[SETTLED:]
    return (statistics.median(settled[-SETTLED:]) - statistics.median(settled[:SETTLED])) / 1e6
