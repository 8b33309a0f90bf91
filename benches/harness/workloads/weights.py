"""Model weights into host memory: from NVMe, from the page cache, from S3 for the first time; in few tensors and in many."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from .. import backed, fio, models, s3
from ..measure import Answer, Contender, LeftOut, execute, needs, ratio, rows, sections, take_turns, target
from ..models import Model
from ..place import Place, clear, drop, warm
from .device_overlap import simulated

TITLE = "Model weights into host memory: 3.5 GB of bf16 in two safetensors files"
# The files, and a copy: Forebay's cache, a server's, or as many bytes in other tensors.
NEED_BYTES = 9 << 30

COLD, WARM, FIRST = "cold", "warm", "first use"
FEW, MANY = "forebay, 300 large tensors", "forebay, 18,867 small tensors"
COUNTS = {"cold": "few and many tensors, cold", "warm": "few and many tensors, warm"}
DEVICE = "to a device of the simulated driver"
OURS, HOST_TIER = "forebay", "forebay, host tier"
RUNAI, RUNAI_BUFFERED = "Run:ai Model Streamer", "Run:ai Model Streamer sync_buffered"
PEERS = ["safetensors", RUNAI, RUNAI_BUFFERED, "fastsafetensors"]
DEFAULTS = [name for name in PEERS if name != RUNAI_BUFFERED]

# Forebay's, which the model doesn't fit into, and one whose half, which is the host tier's, it fits into.
LIMIT_BYTES = 512_000_000
HOST_TIER_BYTES = 9_000_000_000
# Of a device's memory; a tensor may begin at a multiple of it.
ALIGNMENT = 256
# Small neighbours cross the bus together.
TOGETHER = 100
# What a load may take over its imports, the tensors and host_memory_limit.
ALLOWANCE_BYTES = 200_000_000

# A process takes seconds, imports and checks included: more rounds come with `make bench-full`.
ROUNDS = 3
# Of few and many tensors, and of first uses.
FEWER = 2
WIDTH, SMALL_WIDTH = 2048, 256


def run(place: Place) -> dict[str, Any]:
    loading = Loading(place)
    runs = sections(
        {
            COLD: loading.cold,
            WARM: loading.warm,
            **{case: partial(loading.counts, state) for state, case in COUNTS.items()},
            FIRST: loading.first_use,
            DEVICE: loading.device,
        }
    )
    for name in ("weights", "weights-many", "weights-cache", "weights-first", "weights-device"):
        place.remove(name)
    table, model = rows(runs, "GB/s"), loading.model
    return {
        "unit": "GB/s",
        "conditions": (
            f"{model.tensors} tensors of random bf16, {model.nbytes / 1e9:.2f} GB, in {models.FILES} files, into tensors that "
            "own their memory; a process per run, its imports done. safetensors: mapped tensors are cloned, or read by its pread "
            "backend, whichever is faster in the case. "
            f"forebay: host_memory_limit {LIMIT_BYTES / 1e6:.0f} MB, or {HOST_TIER_BYTES / 1e9:.1f} GB and a first use before. "
            "Cold: from its cache folder, checksums verified; the others and fio (the fastest of its settings) read the files. "
            "Warm: all read the files; forebay's host tier holds what its cache has. First use: from an S3 server on the same "
            "processors, tensors delivered and the cache folder written, against downloads to files, each ended by syncfs. "
            "To a device: fewer bytes; what crosses the simulated bus is counted, and how fast means nothing. "
            "Every tensor's bytes are compared with those written, after the measurement. Before it, free memory is touched "
            "by another process: what a virtual machine's host has taken back costs seconds."
        ),
        "page_cache": "cold: emptied of the files; warm: all of them are in it; first use: warm for the server.",
        "settings": {**loading.options, "tensors": model.tensors, "bytes": model.nbytes},
        "commands": loading.commands,
        "runs": runs,
        "rows": table,
        "targets": targets(runs, table),
        "limits": {COLD: "fio"},
        "tiers": {COLD: "NVMe", WARM: "page cache"},
    }


class Loading:
    """The same model for all parts, which take turns with the room on disk."""

    def __init__(self, place: Place) -> None:
        self.place, self.log = place, place.logs / "weights.log"
        place.remove("weights")
        self.model = models.write(place.work / "weights", models.dense(place.scaled(WIDTH, SMALL_WIDTH)))
        self.options: dict[str, Any] = {"cache_limit": "20GB", "host_memory_limit": LIMIT_BYTES}
        self.commands: dict[str, list[str]] = {}

    def turns(self, case: str, contenders: list[Contender], rounds: int = ROUNDS) -> list[Answer]:
        self.commands |= {f"{case}: {contender.name}": contender.command for contender in contenders}
        return take_turns(contenders, self.place.rounds if self.place.full else min(self.place.rounds, rounds), case)

    def cold(self) -> list[Answer]:
        files = list(map(str, self.model.files))
        cached = {"cache_dir": str(self.place.empty("weights-cache"))}
        fill = self.forebay(OURS, self.model, files, cached, tier="origin")
        ours = self.forebay(OURS, self.model, files, cached, tier="disk")
        contenders = [ours, *self.peers("pread", direct=True), self.fio()]
        contenders = [before(contender, self.forget) for contender in contenders]
        return self.turns(COLD, [after(fill, contenders[0]), *contenders[1:]])

    def warm(self) -> list[Answer]:
        files = list(map(str, self.model.files))
        cached = {"cache_dir": str(self.place.work / "weights-cache"), "host_memory_limit": HOST_TIER_BYTES}
        # What comes from the origin stays in the host tier; what the disk has doesn't push that out.
        in_memory = self.forebay(HOST_TIER, self.model, files, cached, tier="host", warm_up=True)
        contenders = [
            self.forebay(OURS, self.model, files, {}, tier="page_cache"),
            before(in_memory, lambda: clear(self.place.work / "weights-cache")),
            *self.peers("mmap", direct=False),
        ]
        return self.turns(WARM, [before(contender, partial(warm, self.model.files)) for contender in contenders])

    def counts(self, state: str) -> list[Answer]:
        """Few and many tensors that come to as many bytes, from files where they lie."""
        self.place.remove("weights-cache")
        prepare, tier = (drop, "file") if state == "cold" else (warm, "page_cache")
        contenders = [
            before(self.forebay(name, model, list(map(str, model.files)), {}, tier=tier), partial(prepare, model.files))
            for name, model in ((FEW, self.model), (MANY, self.many))
        ]
        return self.turns(COUNTS[state], contenders, FEWER)

    @cached_property
    def many(self) -> Model:
        """Written when there is room for it."""
        return models.write(self.place.work / "weights-many", models.experts(self.model.nbytes), seed=models.FILES)

    def first_use(self) -> list[Answer]:
        self.place.remove("weights-many")
        place, log, files = self.place, self.log, self.model.files
        folder = place.work / "weights-first"
        total = sum(file.stat().st_size for file in files)
        with s3.serving(place, files) as server:
            options = {"cache_dir": str(folder), "storage_options": server.storage_options}
            ours = self.forebay(OURS, self.model, list(map(s3.url, files)), options, tier="origin", synced=str(folder))
            downloads = [self.backed(contender) for contender in s3.downloads(place, server, files, folder, log)]
            self.model.remove()
            return self.turns(FIRST, [s3.into_empty(folder, ours, total, server), *downloads], FEWER)

    def device(self) -> list[Answer]:
        """Few and many tensors over a bus without a limit, from files where they lie."""
        folder = self.place.empty("weights-device")
        few = models.write(folder / "few", models.dense(SMALL_WIDTH))
        many = models.write(folder / "many", models.experts(few.nbytes), seed=models.FILES)
        driver = [
            f"LD_LIBRARY_PATH={simulated(self.place)}",
            "FOREBAY_FAKE_CUDA_DELAY_US=0",
            "FOREBAY_FAKE_CUDA_QUIET=1",
        ]

        def contender(name: str, model: Model) -> Contender:
            settings = {"urls": list(map(str, model.files)), "options": self.options, "checksums": str(model.checksums)}
            command = ["env", *driver, *self.place.peer("forebay_weights_device"), json.dumps(settings)]
            return Contender(name, lambda _: execute(command, self.log), command)

        return self.turns(DEVICE, [contender(FEW, few), contender(MANY, many)], rounds=1)

    def forebay(self, name: str, model: Model, urls: list[str], options: dict[str, Any], **more: Any) -> Contender:
        settings = {"urls": urls, "options": {**self.options, **options}, **more}
        return self.loaded(name, "forebay_weights", model, settings)

    def peers(self, how: str, direct: bool) -> list[Contender]:
        """Each with what is fastest in the case: O_DIRECT past the page cache, or what finds the bytes there. Those that take
        three times as long as the fastest take part in fewer rounds."""
        files = {"files": list(map(str, self.model.files))}
        buffered = ["RUNAI_STREAMER_FS_STRATEGY=sync_buffered"]
        threads = {"loader": {"max_threads": 2 * self.place.threads}}
        odirect = [f"FASTSAFETENSORS_ODIRECT={int(direct)}"]
        safetensors, runai = partial(needs, "safetensors"), partial(needs, "runai-model-streamer")
        mapped = self.loaded("safetensors", "safetensors_files", self.model, {**files, "how": how})
        fast = self.loaded("fastsafetensors", "fastsafetensors_files", self.model, {**files, **threads}, odirect)
        return [
            before(replace(mapped, rounds=self.place.few if direct else None), safetensors),
            before(self.loaded(RUNAI, "runai_streamer", self.model, files), runai),
            before(self.loaded(RUNAI_BUFFERED, "runai_streamer", self.model, files, buffered), runai),
            before(replace(fast, rounds=self.place.few), partial(needs, "fastsafetensors")),
        ]

    def loaded(
        self, name: str, module: str, model: Model, settings: dict[str, Any], env: Sequence[str] = ()
    ) -> Contender:
        """A peer that loads this model, and finds free memory as the others do."""
        settings = {**settings, "checksums": str(model.checksums)}
        command = [*(["env", *env] if env else []), *self.place.peer(module)]

        def go(_: int) -> Answer:
            with backed.held(2 * model.nbytes) as holder:
                return execute([*command, json.dumps({**settings, "holder": holder})], self.log)

        return Contender(name, go, [*command, json.dumps(settings)])

    def backed(self, contender: Contender) -> Contender:
        """A contender that is a process from its start on, and finds free memory as the others do."""

        def touch() -> None:
            with backed.held(2 * self.model.nbytes):
                pass

        return before(contender, touch)

    def fio(self) -> Contender:
        """The fastest of its settings in a first run."""
        command: list[str] = []

        def go(_: int) -> Answer:
            if why := self.place.lacks("fio"):
                raise LeftOut(why)
            if not command:
                command.extend(fio.fastest(self.model.files, self.place.work / "weights-fio.json", self.log))
            return fio.read(command, self.log)

        return Contender("fio", go, command)

    def forget(self) -> None:
        """Takes the files and Forebay's cache out of the page cache."""
        cache = self.place.work / "weights-cache"
        drop([*self.model.files, *(path for path in cache.rglob("*") if path.is_file())])


def before(contender: Contender, prepare: Callable[[], None]) -> Contender:
    """The contender, with something to be done before each of its runs."""
    go = contender.go

    def run(round_: int) -> Answer:
        prepare()
        return go(round_)

    return replace(contender, go=run)


def after(fill: Contender, contender: Contender) -> Contender:
    """The contender, with one run of another one before its first."""
    go, filled = contender.go, False

    def run(round_: int) -> Answer:
        nonlocal filled
        if not filled:
            fill.go(round_)
            filled = True
        return go(round_)

    return replace(contender, go=run)


def targets(runs: list[Answer], table: list[Answer]) -> list[Answer]:
    return [*speeds(table), *peaks(runs), *crossings(runs)]


def speeds(table: list[Answer]) -> list[Answer]:
    """Rates over the disk's and over the best of the others, and what they cost."""
    over_fio, cold, warm, host = (
        ratio(table, OURS, ["fio"], COLD),
        ratio(table, OURS, PEERS, COLD),
        ratio(table, OURS, PEERS, WARM),
        ratio(table, HOST_TIER, PEERS, WARM),
    )
    first = ratio(table, OURS, s3.DOWNLOADS, FIRST)
    cpu = {row["contender"]: row.get("cpu_seconds_per_unit") for row in table if row["case"] == COLD}
    ours, theirs = cpu.get(OURS), cpu.get(cold[1]) if cold else None
    price = ours / theirs if ours is not None and theirs else None
    return [
        over("GB/s over fio", over_fio, COLD, 0.97),
        over("GB/s over the fastest peer", cold, COLD, 1.0),
        target(f"CPU seconds over that peer's, {COLD}", price, most=0.6),
        over("GB/s over the fastest peer", warm, f"{WARM}, page cache", 1.5),
        over(
            "GB/s over the fastest peer by its defaults",
            ratio(table, OURS, DEFAULTS, WARM),
            f"{WARM}, page cache",
            None,
        ),
        over("GB/s over the fastest peer", host, f"{WARM}, host tier", 1.5),
        over("GB/s over the faster plain download", first, FIRST, 0.9),
        *(
            over("GB/s of 18,867 tensors over 300", ratio(table, MANY, [FEW], case), at, 0.8)
            for at, case in COUNTS.items()
        ),
    ]


def over(what: str, found: tuple[float, str] | None, case: str, least: float | None) -> Answer:
    """A ratio, with the name of what it is over where that is not the only one."""
    named = f" ({found[1]})" if found and "fast" in what else ""
    return target(f"{what}{named}, {case}", found and found[0], least=least)


def peaks(runs: list[Answer]) -> list[Answer]:
    """Peak RSS over what has to be there: imports, the tensors, and host_memory_limit, or what of that the host tier fills,
    which is as much as the tensors."""
    found: list[Answer] = []
    for case, contender, beside, limit in (
        (COLD, OURS, "host_memory_limit", LIMIT_BYTES),
        (WARM, OURS, "host_memory_limit", LIMIT_BYTES),
        (WARM, HOST_TIER, "the host tier's", None),
        (FIRST, OURS, "host_memory_limit", LIMIT_BYTES),
    ):
        more = []
        for run in runs:
            if (run["case"], run["contender"]) == (case, contender) and "value" in run:
                tensors = run["samples"] * 1e9
                held = tensors if limit is None else limit
                more.append(run["peak_rss_bytes"] - run["imported_rss_bytes"] - tensors - held)
        what = f"MB of peak RSS over imports + tensors + {beside}, {case}"
        found.append(target(what, max(more) / 1e6 if more else None, most=ALLOWANCE_BYTES / 1e6))
    return found


def crossings(runs: list[Answer]) -> list[Answer]:
    """What crossed the simulated bus, beside what had to."""
    by = {run["contender"]: run for run in runs if run["case"] == DEVICE and "value" in run}

    def beyond(name: str) -> float | None:
        run = by.get(name)
        return (run["h2d_bytes"] - run["tensor_bytes"]) / run["tensors"] if run else None

    many = by.get(MANY)
    return [
        *(
            target(
                f"bytes over the bus beyond each tensor's own, {name.removeprefix('forebay, ')}",
                beyond(name),
                most=ALIGNMENT - 1,
            )
            for name in (FEW, MANY)
        ),
        target(
            "small tensors in a copy over the bus",
            many["tensors"] / many["h2d_copies"] if many else None,
            least=TOGETHER,
        ),
    ]
