"""Start-up: what it takes until a program has Forebay, and its first batch, also far into a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .. import peers, s3
from ..install import refused
from ..measure import Answer, Contender, Failed, execute, rows, take_turns, target
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


def run(place: Place) -> dict[str, Any]:
    log = place.logs / "startup.log"
    photos = place.photos(place.scaled(4, 2))
    shards = place.copies("startup-shards", photos, sum(photo.stat().st_size for photo in photos))
    files = s3.indexed(place, shards, log)
    settings = {"batch_size": BATCH, "threads": place.threads, "host_memory_limit": "2GB"}
    contenders = {IMPORT: imports(place, log), FIRST_IMPORT: first_imports(place, log)}
    runs = take_turns(contenders[IMPORT], place.rounds, IMPORT)
    runs += take_turns(contenders[FIRST_IMPORT], place.few, FIRST_IMPORT)
    with s3.serving(place, files) as server:
        remote = {**settings, "shards": list(map(s3.url, shards)), "storage_options": server.storage_options}
        contenders[COLD] = [cold(place, remote, log)]
        runs += take_turns(contenders[COLD], place.rounds, COLD)
    local = {**settings, "shards": list(map(str, shards)), "cache_dir": str(place.empty("startup-cache"))}
    # Brings the shards to NVMe: what a process finds there it reads from there.
    execute([*place.peer("forebay_jpeg"), json.dumps({**local, "cold": True})], log)
    state = execute([*place.peer("forebay_first"), json.dumps(local)], log)["state"]
    contenders[WARM] = [
        first(place, OURS, {**local, "tier": "nvme"}, log),
        first(place, RESUMED, {**local, "tier": "nvme", "state": at(state, POSITION)}, log),
    ]
    runs += take_turns(contenders[WARM], place.rounds, WARM)
    contenders[PLAN] = [plan(place, OURS, 0, log), plan(place, RESUMED, POSITION, log)]
    runs += take_turns(contenders[PLAN], place.rounds, PLAN)
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
        "settings": {**settings, "position": POSITION},
        "commands": {f"{case}: {one.name}": one.command for case, listed in contenders.items() for one in listed},
        "runs": runs,
        "rows": table,
        "targets": targets(table),
    }


def imports(place: Place, log: Path) -> list[Contender]:
    return [
        importing("forebay", "forebay", OURS, log, IMPORTS),
        *(importing(module, package, name, log, 1, place.few) for name, (module, package) in PEERS.items()),
    ]


def importing(module: str, package: str, name: str, log: Path, times: int, rounds: int | None = None) -> Contender:
    command = [sys.executable, str(Path(peers.__file__).with_name("importing.py")), module]

    def go(round_: int) -> Answer:
        if why := refused(package):
            raise Failed(f"{package} does not install: {why}")
        if round_ == 0:
            execute(command, log)
        answers = [execute(command, log) for _ in range(times)]
        return sorted(answers, key=lambda answer: float(answer["value"]))[times // 2]

    return Contender(name, go, command, rounds)


def first_imports(place: Place, log: Path) -> list[Contender]:
    """As after a start of the machine."""
    found = []
    for contender in imports(place, log)[:3]:

        def go(_: int, command: list[str] = contender.command) -> Answer:
            place.drop_caches()
            return execute(command, log)

        found.append(Contender(contender.name, go, contender.command))
    return found


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
