"""JPEG training from NVMe: RandomResizedCrop 224 and flip, batches of 256, uint8 NHWC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..measure import Contender, execute, ratio, rows, take_turns, target
from ..place import Place, warm

TITLE = "JPEG training, warm NVMe (RandomResizedCrop 224, flip, batch 256, 500×375 photographs)"
NEED_BYTES = 2 << 30

BATCH = 256
OUTPUT = {"shape": [BATCH, 224, 224, 3], "dtype": "uint8"}


def run(place: Place) -> dict[str, Any]:
    shards = place.photos(place.scaled(8, 2), 500)
    samples = 500 * len(shards)
    warm(shards)
    log = place.logs / "jpeg_training.log"
    indexes = [index(place, shard, log) for shard in shards]
    cache = place.empty("jpeg-cache")
    settings = {
        "shards": [str(shard) for shard in shards],
        "indexes": indexes,
        "samples": samples,
        "batch_size": BATCH,
        "threads": place.threads,
        "seed": 0,
        "epochs": 1,
        "cache_dir": str(cache),
        "cache_limit": "20GB",
        "host_memory_limit": "2GB",
        "tier": "nvme",
        "decode": "exact",
    }

    def python(name: str, peer: str, **more: Any) -> Contender:
        command = [*place.peer(peer), json.dumps({**settings, **more})]
        return Contender(name, lambda _: checked(execute(command, log)), command)

    crops = [place.program("crops"), f"--threads={place.threads}", f"--batch={BATCH}", *map(str, shards)]
    contenders = [
        python("forebay", "forebay_jpeg"),
        python("DALI (CPU)", "dali"),
        python('forebay, decode="fast"', "forebay_jpeg", decode="fast"),
        Contender("limit: crop decode + resize alone", lambda _: checked(execute(crops, log)), crops),
    ]
    # Brings the shards to NVMe: what a process finds there it reads from there.
    execute(python("fill", "forebay_jpeg", tier="memory").command, log)
    runs = take_turns(contenders, place.rounds)
    place.remove("jpeg-cache")
    table = rows(runs, "images/s")
    dali = ratio(table, "forebay", ["DALI (CPU)"])
    limit = ratio(table, "forebay", ["limit: crop decode + resize alone"])
    return {
        "unit": "images/s",
        "conditions": (
            f"{len(shards)} shards of 500 photographs; {place.threads} decoding threads each; one epoch of warm-up, "
            "one measured; a process per run. forebay reads with O_DIRECT from its cache folder on NVMe; DALI maps the "
            "shards, which are in the page cache (in its favour); the limit has the JPEGs in its memory."
        ),
        "settings": settings,
        "commands": {contender.name: contender.command for contender in contenders},
        "runs": runs,
        "rows": table,
        "targets": [
            target("images/s over DALI's CPU pipeline", dali and dali[0], least=2.0),
            target("images/s over crop decode + resize alone", limit and limit[0]),
        ],
    }


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose batches are what was asked for."""
    if answer["output"] != OUTPUT:
        raise ValueError(f"batches are {answer['output']}, and should be {OUTPUT}")
    return answer


def index(place: Place, shard: Path, log: Path) -> str:
    """DALI's index of a shard, in a folder of its own, where nobody else finds it."""
    path = place.work / "dali-index" / f"{shard.parent.name}-{shard.stem}.idx"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        execute([place.installed("wds2idx"), str(shard), str(path)], log)
    return str(path)
