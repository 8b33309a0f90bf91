"""Several ranks on one machine with one cache folder: bytes from the origin, images per second of all together, memory."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from servers import RangeServer

from .. import s3
from ..install import refused
from ..measure import Answer, Contender, Failed, curve, execute, ratio, rows, take_turns, target
from ..place import SAMPLES_PER_SHARD, Place, warm

TITLE = "Ranks of one machine with one cache folder (JPEG training, batches of 64 a rank)"
NEED_BYTES = 3 << 30

RANKS = (1, 2, 4, 8)
# A global batch of eight ranks is a shard.
BATCH = 64
COLD, WARM = "from the origin", "NVMe"
# Each process also asks for sizes and sidecars, which are small beside the shards.
MOST_BYTES = 1.01
PEER = "WebDataset + torchvision.io"


def run(place: Place) -> dict[str, Any]:
    log = place.logs / "ranks.log"
    photos = place.photos(place.scaled(8, 2))
    # Names of their own: sidecars lie beside them.
    shards = place.copies("ranks-shards", photos, sum(photo.stat().st_size for photo in photos))
    s3.indexed(place, shards, log)
    warm(shards)
    settings = {
        "samples": SAMPLES_PER_SHARD * len(shards),
        "batch_size": BATCH,
        "threads": place.threads,
        "seed": 0,
        "epochs": 1,
        "host_memory_limit": "512MB",
    }
    with RangeServer(shards[0].parent) as origin:
        urls = [f"{origin.url}/{shard.name}" for shard in shards]
        contenders = [cold(place, ranks, {**settings, "shards": urls}, origin, log) for ranks in RANKS]
        runs = take_turns(contenders, place.rounds, COLD)
    files = {**settings, "shards": [str(shard) for shard in shards], "cache_dir": str(place.empty("ranks-cache"))}
    # Brings the shards to NVMe: what a process finds there it reads from there.
    execute([*place.peer("forebay_jpeg"), json.dumps({**files, "cold": True})], log)
    there = [
        *(forebay(place, ranks, {**files, "tier": "nvme"}, log) for ranks in RANKS),
        *(peer(place, workers, files, log) for workers in RANKS if workers <= len(shards)),
    ]
    runs += take_turns(there, place.rounds, WARM)
    for name in ("ranks-shards", "ranks-cache"):
        place.remove(name)
    table = rows(runs, "images/s")
    return {
        "unit": "images/s",
        "conditions": (
            f"{len(shards)} shards of {SAMPLES_PER_SHARD} photographs with sidecars. A process per rank, {place.threads} "
            "decoding threads in all, but one a rank at least, so that ranks beyond that number share processors; images of "
            "all together, from a start that they wait for to the end of the last one. From the origin: the loaders' making "
            "and an epoch into an empty folder, from an HTTP server on the same processors that counts what it sends. NVMe: "
            f"the second epoch of processes that find the shards in the folder. {PEER}: as many torch workers, which read "
            "half as many from the page cache; each epoch would read the origin anew. Memory: of all processes at the end, "
            "each page counted once (PSS) and once for each (RSS)."
        ),
        "page_cache": "warm: the shards are read before. forebay reads its cache folder past it, with O_DIRECT.",
        "settings": settings,
        "commands": {contender.name: contender.command for contender in [*contenders, *there]},
        "runs": runs,
        "rows": table,
        "targets": targets(runs, table),
        "tiers": {COLD: "origin", WARM: "NVMe"},
        "curves": curves(runs),
    }


def named(ranks: int) -> str:
    return f"forebay, {ranks} {'process' if ranks == 1 else 'processes'}"


def forebay(place: Place, ranks: int, settings: dict[str, Any], log: Path) -> Contender:
    """Of one and of eight processes something is promised."""
    command = [*place.peer("forebay_ranks"), json.dumps({**settings, "ranks": ranks})]

    def go(_: int) -> Answer:
        return {**execute(command, log), "processes": ranks}

    return Contender(named(ranks), go, command, None if ranks in (RANKS[0], RANKS[-1]) else place.few)


def cold(place: Place, ranks: int, settings: dict[str, Any], origin: RangeServer, log: Path) -> Contender:
    folder = place.work / "ranks-cold"
    contender = forebay(place, ranks, {**settings, "cold": True, "cache_dir": str(folder)}, log)
    go = contender.go

    def run(round_: int) -> Answer:
        place.empty(folder.name)
        before = origin.sent_bytes
        answer = go(round_)
        return {**answer, "origin_bytes": origin.sent_bytes - before}

    contender.go = run
    return contender


def peer(place: Place, workers: int, settings: dict[str, Any], log: Path) -> Contender:
    # An endless stream, of which half an epoch tells its rate.
    given = {**settings, "samples": settings["samples"] // 2, "threads": workers, "images": "torchvision"}
    command = [*place.peer("webdataset_torch"), json.dumps(given)]

    def go(_: int) -> Answer:
        if why := refused("webdataset"):
            raise Failed(f"webdataset does not install: {why}")
        return {**execute(command, log), "processes": workers}

    return Contender(f"{PEER}, {workers} {'worker' if workers == 1 else 'workers'}", go, command, place.few)


def targets(runs: list[Answer], table: list[Answer]) -> list[Answer]:
    found = []
    most = median(runs, COLD, RANKS[0], "origin_bytes")
    for ranks in RANKS[1:]:
        sent = median(runs, COLD, ranks, "origin_bytes")
        share = sent / most if sent is not None and most else None
        found.append(target(f"origin bytes of {ranks} processes over one's", share, most=MOST_BYTES))
    for case in (COLD, WARM):
        for ranks in RANKS[1:]:
            over = ratio(table, named(ranks), [named(1)], case)
            least = 0.95 if ranks == RANKS[-1] else None
            found.append(target(f"images/s of {ranks} processes over one's, {case}", over and over[0], least=least))
    for ranks in RANKS:
        held = median(runs, WARM, ranks, "pss_bytes")
        found.append(target(f"MB held (PSS) by {ranks} of Forebay's processes", None if held is None else held / 1e6))
    return found


def median(runs: list[Answer], case: str, ranks: int, entry: str) -> float | None:
    """Of an entry of Forebay's runs with so many ranks."""
    values = [run[entry] for run in runs if (run["case"], run["contender"]) == (case, named(ranks)) and entry in run]
    return statistics.median(values) if values else None


def curves(runs: list[Answer]) -> list[Answer]:
    """Rates and memory against processes, a line for each kind of them."""
    ended = [{**run, "contender": run["contender"].rpartition(", ")[0]} for run in runs if "processes" in run]

    def against(title: str, y: str, lines: list[Answer]) -> Answer:
        table = rows([{**run, "case": str(run["processes"])} for run in lines], y)
        return curve(table, {str(ranks): float(ranks) for ranks in RANKS}, title=title, x="processes", y=y)

    rates = [
        against(f"Images/s of all processes, {case}", "images/s", [run for run in ended if run["case"] == case])
        for case in (COLD, WARM)
    ]
    held = [
        {**run, "contender": f"{run['contender']}, {name}", "value": run[f"{name.lower()}_bytes"] / 1e6}
        for name in ("PSS", "RSS")
        for run in ended
        if run["case"] == WARM
    ]
    return [*rates, against("Memory of all processes at the end, NVMe", "MB", held)]
