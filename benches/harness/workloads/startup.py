"""Start-up: what it takes until a program has Forebay, and its first batch, also far into a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .. import peers, s3
from ..measure import Answer, Contender, execute, needs, rows, sections, take_turns, target
from ..place import Place

TITLE = "Start-up: import, first batch of 256 images, resume at position 10⁹"
NEED_BYTES = 2 << 30

BATCH = 256
POSITION = 10**9
# Forebay's import takes milliseconds: a run is the middle one of so many processes.
IMPORTS = 5

IMPORT, FIRST_IMPORT = "import", "import, page cache empty"
WARM, COLD, PLAN = (
    "first batch, warm NVMe",
    "first batch, cold S3",
    "the first batch's plan, 2·10⁹ samples in 200,000 shards",
)
FROM_ITER = {case: f"{case}, from iter()" for case in (WARM, COLD)}
OURS, RESUMED = "forebay", "forebay, resumed at 10⁹"

# Name: module, package.
PEERS = {
    "torch": ("torch", "torch"),
    "WebDataset": ("webdataset", "webdataset"),
    "DALI": ("nvidia.dali", "nvidia-dali-cuda120"),
    "MosaicML Streaming": ("streaming", "mosaicml-streaming"),
}
# MosaicML Streaming's takes five seconds, and comes with `make bench-full`.
USUAL = ("torch", "WebDataset", "DALI")


def run(place: Place) -> dict[str, Any]:
    startup = Startup(place)
    runs = sections(
        {
            IMPORT: startup.imports,
            FIRST_IMPORT: startup.first_imports,
            COLD: startup.cold,
            WARM: startup.warm,
            PLAN: startup.plan,
        }
    )
    for name in ("startup-shards", "startup-cache", "startup-cold"):
        place.remove(name)
    runs += from_iter(runs)
    table = rows(runs, "s", "less")
    return {
        "unit": "s",
        "better": "less",
        "conditions": (
            f"Imports: timed in a Python that has imported nothing else; forebay's is the middle one of {IMPORTS}. First "
            f"batch: {BATCH} random crops of shuffled photographs with sidecars, in a process of its own, {place.threads} "
            "threads, from the making of the loader and from iter() on, imports done. Warm: the shards are in the cache "
            "folder, and read past the page cache. Cold: from an S3 server on the same processors into an empty folder. "
            "Resumed: a state so many epochs later that the samples before it come to 10⁹; a dataset so large can't be "
            "had, so its plan is also measured alone: a state's JSON to the places of the first batch's samples."
        ),
        "page_cache": "warm: programs were run before, and the server has just written its files; emptied where a case says so.",
        "settings": {**startup.settings, "position": POSITION},
        "commands": startup.commands,
        "runs": runs,
        "rows": table,
        "targets": targets(table),
    }


class Startup:
    """The same shards and settings for all parts."""

    def __init__(self, place: Place) -> None:
        self.place, self.log = place, place.logs / "startup.log"
        photos = place.photos(place.scaled(4, 2))
        self.shards = place.copies("startup-shards", photos, sum(photo.stat().st_size for photo in photos))
        self.files = s3.indexed(place, self.shards, self.log)
        self.settings: dict[str, Any] = {"batch_size": BATCH, "threads": place.threads, "host_memory_limit": "2GB"}
        self.commands: dict[str, list[str]] = {}

    def turns(self, case: str, contenders: list[Contender], rounds: int | None = None) -> list[Answer]:
        self.commands |= {f"{case}: {contender.name}": contender.command for contender in contenders}
        return take_turns(contenders, rounds or self.place.rounds, case)

    def imports(self) -> list[Answer]:
        return self.turns(IMPORT, imports(self.place, self.log))

    def first_imports(self) -> list[Answer]:
        return self.turns(FIRST_IMPORT, first_imports(self.place, self.log), self.place.few)

    def cold(self) -> list[Answer]:
        with s3.serving(self.place, self.files) as server:
            urls = list(map(s3.url, self.shards))
            remote = {**self.settings, "shards": urls, "storage_options": server.storage_options}
            return self.turns(COLD, [cold(self.place, remote, self.log)])

    def warm(self) -> list[Answer]:
        place, log = self.place, self.log
        folder = str(place.empty("startup-cache"))
        local = {**self.settings, "shards": list(map(str, self.shards)), "cache_dir": folder}
        # Brings the shards to NVMe: what a process finds there it reads from there.
        execute([*place.peer("forebay_jpeg"), json.dumps({**local, "cold": True})], log)
        state = execute([*place.peer("forebay_first"), json.dumps(local)], log)["state"]
        contenders = [
            first(place, OURS, {**local, "tier": "nvme"}, log),
            first(place, RESUMED, {**local, "tier": "nvme", "state": at(state, POSITION)}, log),
        ]
        return self.turns(WARM, contenders)

    def plan(self) -> list[Answer]:
        return self.turns(PLAN, [plan(self.place, OURS, 0, self.log), plan(self.place, RESUMED, POSITION, self.log)])


def imports(place: Place, log: Path) -> list[Contender]:
    """Of modules whose files are in the page cache."""

    def contender(name: str, module: str, package: str, times: int, rounds: int | None) -> Contender:
        command = importing(module)

        def go(round_: int) -> Answer:
            needs(package)
            if round_ == 0:
                execute(command, log)
            answers = [execute(command, log) for _ in range(times)]
            return sorted(answers, key=lambda answer: float(answer["value"]))[times // 2]

        return Contender(name, go, command, rounds)

    peers = [contender(name, *peer, 1, place.few) for name, peer in PEERS.items() if place.full or name in USUAL]
    return [contender(OURS, "forebay", "forebay", IMPORTS, None), *peers]


def first_imports(place: Place, log: Path) -> list[Contender]:
    """As after a start of the machine."""

    def contender(name: str, module: str, package: str) -> Contender:
        command = importing(module)

        def go(_: int) -> Answer:
            needs(package)
            place.drop_caches()
            return execute(command, log)

        return Contender(name, go, command)

    return [contender(OURS, "forebay", "forebay"), contender("torch", *PEERS["torch"])]


def importing(module: str) -> list[str]:
    """The command that times an import."""
    return [sys.executable, str(Path(peers.__file__).with_name("importing.py")), module]


def first(place: Place, name: str, settings: dict[str, Any], log: Path) -> Contender:
    command = [*place.peer("forebay_first"), json.dumps(settings)]

    def go(_: int) -> Answer:
        answer = execute(command, log)
        if answer["output"]["shape"][0] != BATCH:
            raise ValueError(f"the first batch is {answer['output']}")
        return answer

    return Contender(name, go, command)


def cold(place: Place, settings: dict[str, Any], log: Path) -> Contender:
    folder = place.work / "startup-cold"
    contender = first(place, OURS, {**settings, "cache_dir": str(folder)}, log)
    go = contender.go

    def run(round_: int) -> Answer:
        place.empty(folder.name)
        return go(round_)

    contender.go = run
    return contender


def plan(place: Place, name: str, position: int, log: Path) -> Contender:
    command = [place.program("resume"), f"--position={position}", f"--batch={BATCH}"]
    return Contender(name, lambda _: execute(command, log), command)


def at(state: dict[str, Any], position: int) -> dict[str, Any]:
    """The state of a loader that has delivered so many samples since its first epoch began."""
    epoch, consumed = divmod(position, state["dataset"]["samples"])
    return {**state, "epoch": epoch, "consumed": consumed}


def from_iter(runs: list[Answer]) -> list[Answer]:
    """The same runs, without the making of the loader."""
    return [
        {
            **{name: run[name] for name in ("contender", "round", "seconds")},
            "case": FROM_ITER[run["case"]],
            "value": run["from_iter_seconds"],
        }
        for run in runs
        if "from_iter_seconds" in run
    ]


def targets(table: list[Answer]) -> list[Answer]:
    found = {(row["case"], row["contender"]): row["median"] * 1e3 for row in table if "median" in row}

    def later(case: str) -> float | None:
        resumed, fresh = found.get((case, RESUMED)), found.get((case, OURS))
        return None if resumed is None or fresh is None else resumed - fresh

    return [
        target("ms of import forebay", found.get((IMPORT, OURS)), most=50),
        target(f"ms to the {WARM}", found.get((WARM, OURS)), most=300),
        target(f"ms to the {FROM_ITER[WARM]}", found.get((FROM_ITER[WARM], OURS))),
        target(f"ms to the {COLD}", found.get((COLD, OURS))),
        target(f"ms later, resumed at 10⁹, {WARM}", later(WARM), most=50),
        target(f"ms later, resumed at 10⁹, {PLAN}", later(PLAN), most=50),
    ]
