"""JPEG training against the number of decoding threads: Forebay, and the decoding alone."""

from __future__ import annotations

import json
from functools import partial

from ..measure import Answer, curve, execute, peaks, program, ratio, rows, sections, take_turns, target
from ..place import SAMPLES_PER_SHARD, Place, warm
from .jpeg_training import BATCH, LIMIT, OUTPUT, checked

TITLE = "JPEG training, warm NVMe, against the number of decoding threads"
NEED_BYTES = 3 << 30


def run(place: Place) -> Answer:
    shards = place.photos(place.scaled(4, 2))
    warm(shards)
    log = place.logs / "threads.log"
    counts = sorted({1, place.threads, 2 * place.threads})
    cases = {f"{count} thread{'s' if count > 1 else ''}": count for count in counts}
    settings = {
        "shards": [str(shard) for shard in shards],
        "samples": SAMPLES_PER_SHARD * len(shards),
        "batch_size": BATCH,
        "seed": 0,
        "epochs": 1,
        "cache_dir": str(place.empty("threads-cache")),
        "cache_limit": "20GB",
        "host_memory_limit": "2GB",
        "tier": "nvme",
        "decode": "exact",
    }
    commands: dict[str, list[str]] = {}
    # Brings the shards to NVMe: what a process finds there it reads from there.
    filling = {**settings, "threads": place.threads, "cold": True}
    execute([*place.peer("forebay_jpeg"), json.dumps(filling)], log)

    def turns(case: str, count: int) -> list[Answer]:
        ours = [*place.peer("forebay_jpeg"), json.dumps({**settings, "threads": count})]
        alone = [place.program("crops"), f"--threads={count}", f"--batch={BATCH}", *map(str, shards)]
        commands.update({f"forebay, {case}": ours, f"{LIMIT}, {case}": alone})
        contenders = [
            program("forebay", ours, log, checked),
            program(LIMIT, alone, log, checked),
        ]
        return take_turns(contenders, place.rounds if place.full else min(place.rounds, 2), case)

    runs = sections({case: partial(turns, case, count) for case, count in cases.items()})
    place.remove("threads-cache")
    table = rows(runs, "images/s")
    memory = peaks(table, 2_000_000_000)
    return {
        "unit": "images/s",
        "conditions": (
            f"{len(shards)} shards of {SAMPLES_PER_SHARD} photographs, batches {OUTPUT['shape']}; one epoch of warm-up, one "
            f"measured; a process per run; the machine has {place.threads} processors for them. forebay has threads of its own "
            "for reading and checksums beside those counted."
        ),
        "page_cache": "plays no part: forebay reads with O_DIRECT; the limit has the JPEGs in its memory.",
        "settings": settings,
        "commands": commands,
        "runs": runs,
        "rows": table,
        "targets": [
            target(f"images/s over crop decode + resize alone, {case}", found and found[0])
            for case, found in ((case, ratio(table, "forebay", [LIMIT], case)) for case in cases)
        ]
        + memory,
        "limits": dict.fromkeys(cases, LIMIT),
        "curves": [
            curve(table, cases, title="images/s against decoding threads", x="threads", y="images/s"),
            curve(
                table, cases, title="Peak RSS against decoding threads", x="threads", y="bytes", entry="peak_rss_bytes"
            ),
        ],
    }
