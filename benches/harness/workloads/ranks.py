"""Several ranks on one machine with one cache folder: bytes from the origin, images per second of all together, memory."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from servers import RangeServer

from .. import s3
from ..measure import Answer, Contender, curve, execute, needs, ratio, rows, sections, take_turns, target
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
# Batches of a worker before it is measured, from NVMe: an endless stream, of which more would tell nothing.
WARM_UP = 2
COLD_FOLDER = "ranks-cold"


def run(place: Place) -> dict[str, Any]:
    ranks = Ranks(place)
    runs = sections({COLD: ranks.cold, WARM: ranks.warm})
    for name in ("ranks-shards", "ranks-cache", "ranks-cold"):
        place.remove(name)
    table = rows(runs, "images/s")
    return {
        "unit": "images/s",
        "conditions": (
            f"{len(ranks.shards)} shards of {SAMPLES_PER_SHARD} photographs with sidecars. A process per rank, {place.threads} "
            "decoding threads in all, but one a rank at least, so that ranks beyond that number share processors; images of "
            "all together, from a start that they wait for to the end of the last one. From the origin: the loaders' making "
            "and an epoch into an empty folder, from an HTTP server on the same processors that counts what it sends "
            f"(origin_bytes in the runs). NVMe: the second epoch of processes that find the shards in the folder. {PEER}: as "
            "many torch workers. From the origin, by curl, its way for HTTP, from the making of the loader on: each worker "
            "reads its own shards, in each epoch anew, as nothing is kept. NVMe: from the page cache, half as many images "
            f"after {WARM_UP} batches a worker. Memory: of all processes at the end, each page counted once (PSS) and once "
            "for each (RSS)."
        ),
        "page_cache": "warm: the shards are read before. forebay reads its cache folder past it, with O_DIRECT.",
        "settings": ranks.settings,
        "commands": ranks.commands,
        "runs": runs,
        "rows": table,
        "targets": targets(runs, table),
        "tiers": {COLD: "origin", WARM: "NVMe"},
        "curves": curves(runs),
    }


class Ranks:
    """The same shards and settings for both parts."""

    def __init__(self, place: Place) -> None:
        self.place, self.log = place, place.logs / "ranks.log"
        photos = place.photos(place.scaled(8, 2))
        # Names of their own: sidecars lie beside them.
        self.shards = place.copies("ranks-shards", photos, sum(photo.stat().st_size for photo in photos))
        s3.indexed(place, self.shards, self.log)
        warm(self.shards)
        self.settings: dict[str, Any] = {
            "samples": SAMPLES_PER_SHARD * len(self.shards),
            "batch_size": BATCH,
            "threads": place.threads,
            "seed": 0,
            "epochs": 1,
            "host_memory_limit": "512MB",
        }
        self.workers = [workers for workers in RANKS if workers <= len(self.shards)]
        self.commands: dict[str, list[str]] = {}

    def turns(self, case: str, contenders: list[Contender]) -> list[Answer]:
        self.commands |= {f"{case}: {contender.name}": contender.command for contender in contenders}
        return take_turns(contenders, self.place.rounds, case)

    def cold(self) -> list[Answer]:
        place, log = self.place, self.log
        with RangeServer(self.shards[0].parent) as origin:
            urls = [f"{origin.url}/{shard.name}" for shard in self.shards]
            settings = {**self.settings, "shards": urls, "cold": True}
            ours = {**settings, "cache_dir": str(place.work / COLD_FOLDER)}
            # As many as there are processors, and the most, tell how it goes; the others come with `make bench-full`.
            as_threads = max(workers for workers in self.workers if workers <= place.threads)
            some = self.workers if place.full else sorted({as_threads, self.workers[-1]})
            contenders = [
                *(into_empty(place, forebay(place, ranks, ours, log)) for ranks in RANKS),
                *(peer(place, workers, {**settings, "once": True}, log) for workers in some),
            ]
            return self.turns(COLD, [counted(contender, origin) for contender in contenders])

    def warm(self) -> list[Answer]:
        place, log = self.place, self.log
        folder = str(place.empty("ranks-cache"))
        files = {**self.settings, "shards": [str(shard) for shard in self.shards], "cache_dir": folder}
        # Brings the shards to NVMe: what a process finds there it reads from there.
        execute([*place.peer("forebay_jpeg"), json.dumps({**files, "cold": True})], log)
        half = {**files, "samples": files["samples"] // 2}
        contenders = [
            *(forebay(place, ranks, {**files, "tier": "nvme"}, log) for ranks in RANKS),
            *(peer(place, number, {**half, "warm_up_batches": WARM_UP * number}, log) for number in self.workers),
        ]
        return self.turns(WARM, contenders)


def named(ranks: int) -> str:
    return f"forebay, {ranks} {'process' if ranks == 1 else 'processes'}"


def forebay(place: Place, ranks: int, settings: dict[str, Any], log: Path) -> Contender:
    """Of one and of eight processes something is promised."""
    command = [*place.peer("forebay_ranks"), json.dumps({**settings, "ranks": ranks})]

    def go(_: int) -> Answer:
        return {**execute(command, log), "processes": ranks}

    return Contender(named(ranks), go, command, None if ranks in (RANKS[0], RANKS[-1]) else place.few)


def counted(contender: Contender, origin: RangeServer) -> Contender:
    """The contender, with what the origin sends for it."""
    go = contender.go

    def run(round_: int) -> Answer:
        before = origin.sent_bytes
        answer = go(round_)
        return {**answer, "origin_bytes": origin.sent_bytes - before}

    contender.go = run
    return contender


def into_empty(place: Place, contender: Contender) -> Contender:
    """The contender, with an empty cache folder to begin with."""
    go = contender.go

    def run(round_: int) -> Answer:
        place.empty(COLD_FOLDER)
        return go(round_)

    contender.go = run
    return contender


def peer(place: Place, workers: int, settings: dict[str, Any], log: Path) -> Contender:
    given = {**settings, "threads": workers, "images": "torchvision"}
    command = [*place.peer("webdataset_torch"), json.dumps(given)]

    def go(_: int) -> Answer:
        needs("webdataset")
        if "cold" in given:
            s3.curl()
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
