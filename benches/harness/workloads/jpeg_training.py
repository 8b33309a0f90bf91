"""JPEG training by tier: RandomResizedCrop 224 and flip, batches of 256, uint8 NHWC."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from servers import SeaweedFS

from .. import pixels, s3
from ..measure import (
    Answer,
    Contender,
    Failed,
    execute,
    needs,
    peaks,
    ratio,
    rows,
    say,
    sections,
    stopped,
    take_turns,
    target,
)
from ..place import SAMPLES_PER_SHARD, Place, warm

TITLE = "JPEG training from NVMe, host memory and cold S3 (RandomResizedCrop 224, flip, batch 256, 500×375 photographs)"
NEED_BYTES = 4 << 30
# The photographs, and what peers make of them in their own formats.
KEPT_BYTES = 2 << 30

BATCH = 256
OUTPUT = {"shape": [BATCH, 224, 224, 3], "dtype": "uint8"}
NVME, MEMORY, S3 = "NVMe", "host memory", "cold S3"
LIMIT = "limit: crop decode + resize alone"

# What a batch may differ from Pillow's by, on average, in levels: the same decoding and the same filter, rounded otherwise.
EXACT_LEVELS = 2.0
# Other colour conversions and filters, or a crop half a pixel away: SPDL has 2.2, DALI 2.9. Another order or crop is far above.
SIMILAR_LEVELS = 5.0

PEERS: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "DALI (CPU)": ("dali", "nvidia-dali-cuda120", SIMILAR_LEVELS, {"converted": "dali-index"}),
    "WebDataset + Pillow": ("webdataset_torch", "webdataset", EXACT_LEVELS, {"images": "pillow"}),
    "WebDataset + torchvision.io": ("webdataset_torch", "webdataset", EXACT_LEVELS, {"images": "torchvision"}),
    "SPDL": ("spdl_threads", "spdl", SIMILAR_LEVELS, {}),
    "FFCV": ("ffcv_beton", "ffcv", SIMILAR_LEVELS, {"converted": "ffcv"}),
    "MosaicML Streaming": ("streaming_mds", "mosaicml-streaming", EXACT_LEVELS, {"converted": "mds"}),
    "LitData": ("litdata_chunks", "litdata", EXACT_LEVELS, {"converted": "litdata"}),
    "Grain": ("grain_records", "grain", EXACT_LEVELS, {"converted": "array-record"}),
    "torchdata.nodes": ("torchdata_nodes", "torchdata", EXACT_LEVELS, {}),
    "Hugging Face datasets": ("hf_datasets", "datasets", EXACT_LEVELS, {}),
}
# Endless streams that take up to four seconds for a usual run's epoch: their workers' first batches warm up, and three quarters
# are measured.
STREAMS = ("WebDataset + Pillow", "WebDataset + torchvision.io", "SPDL", "torchdata.nodes")
# Of a case that promises no rate.
ROUNDS = 3
FAST = 'forebay, decode="fast"'
LITTLE = "forebay, 500 MB of host memory"
OVER_HTTP = "WebDataset + torchvision.io"
TARGETS = {"DALI (CPU)": 3.0, "WebDataset + Pillow": 5.0, "WebDataset + torchvision.io": 3.0, "SPDL": 3.0}

CONDITIONS = (
    "{shards} shards of {samples} photographs; {threads} decoding threads or worker processes each; a process per run. "
    "NVMe and host memory: one epoch of warm-up, one measured, or {epochs} of forebay's and the limit's, which are short"
    "{streams}. From NVMe forebay reads with O_DIRECT, from its cache folder; the others read the shards, or their own format "
    "made from them beforehand, from the page cache (in their favour); the limit has the JPEGs in its memory. Before its first "
    "run each gives a batch without randomness (shorter side 256, middle 224), which is compared with Pillow's: `pixels` "
    "in the runs, levels of 255. forebay reads the blocks of a window in one piece each as far as they fit into host memory, "
    "here all of them; with 500 MB a third, and the other photographs are read one by one, as in a dataset with a window "
    "larger than host memory. Host memory: the warm-up reads the shards, and leaves them within host_memory_limit. Cold "
    "S3: {copies} shards with sidecars on a server on the same processors, into an empty cache folder; the first epoch, "
    "from the making of the loader on. Downloads are plain ones of the same shards to files, ended by syncfs, as images/s; "
    "forebay's epoch ends with its last batch, when its last writes to the cache may still be under way. The limit has an epoch "
    "of warm-up there, and one measured. Peers over which nothing is promised take part in {few}. "
    "WebDataset reads by curl, its way for HTTP. Left out there: MosaicML Streaming and LitData, whose own formats would "
    "have to be on the server; DALI, SPDL, Grain, torchdata.nodes and FFCV, which are given files here; Hugging Face datasets, "
    "which needs s3fs. With worker processes, peak RSS is the sum of all, shared pages once each."
)
STREAMED = (
    "; of {names}, which are endless streams, {warm_up_batches} batches of warm-up, and {samples} images measured"
)


def run(place: Place) -> dict[str, Any]:
    training = Training(place)
    runs = sections({NVME: training.nvme, MEMORY: training.host_memory, S3: training.cold_s3})
    for folder in (
        "jpeg-cache",
        "jpeg-memory",
        "jpeg-cold",
        "jpeg-files",
        "jpeg-checks",
        "jpeg-shards",
    ):
        place.remove(folder)
    table = rows(runs, "images/s")
    bound = cold_bound(table)
    return {
        "unit": "images/s",
        "conditions": training.conditions(),
        "page_cache": "warm: shards, and what peers made of them, are read before. forebay reads past it, with O_DIRECT.",
        "settings": training.settings,
        "commands": training.commands,
        "runs": runs,
        "rows": table,
        "targets": [*targets(table), *peaks(table, 2_000_000_000)],
        "limits": {NVME: LIMIT, MEMORY: LIMIT, **({S3: bound} if bound else {})},
        "tiers": {NVME: NVME, MEMORY: MEMORY, S3: S3},
    }


class Training:
    """The same photographs and settings for all of them."""

    def __init__(self, place: Place) -> None:
        self.place, self.log = place, place.logs / "jpeg_training.log"
        self.shards = place.photos(place.scaled(4, 2, full=8))
        self.copies = place.copies("jpeg-shards", self.shards, place.scaled(500_000_000, 50_000_000))
        self.epochs = place.scaled(3, 1)
        self.commands: dict[str, list[str]] = {}
        self.settings = {
            "shards": [str(shard) for shard in self.shards],
            "samples": SAMPLES_PER_SHARD * len(self.shards),
            "batch_size": BATCH,
            "threads": place.threads,
            "seed": 0,
            "epochs": 1,
            "host_memory_limit": "2GB",
        }

    def conditions(self) -> str:
        return CONDITIONS.format(
            shards=len(self.shards),
            copies=len(self.copies),
            samples=SAMPLES_PER_SHARD,
            threads=self.place.threads,
            epochs=self.epochs,
            streams="" if self.place.full else STREAMED.format(**self.streamed(STREAMS[0]), names=", ".join(STREAMS)),
            few="every round" if self.place.full else "one round",
        )

    def streamed(self, name: str) -> dict[str, int]:
        """How much an endless stream gives in a usual run."""
        if name not in STREAMS or self.place.full:
            return {}
        samples = SAMPLES_PER_SHARD * len(self.shards) * 3 // 4
        return {"samples": samples // BATCH * BATCH, "warm_up_batches": self.place.threads}

    def turns(self, case: str, contenders: list[Contender], rounds: int | None = None) -> list[Answer]:
        self.commands |= {f"{case}: {contender.name}": contender.command for contender in contenders}
        return take_turns(contenders, rounds or self.place.rounds, case)

    def nvme(self) -> list[Answer]:
        warm(self.shards)
        checks = self.place.empty("jpeg-checks")
        expected = pixels.reference(self.shards[0], BATCH)
        ours = {"epochs": self.epochs, "cache_dir": str(self.place.empty("jpeg-cache")), "tier": "nvme"}

        def python(
            name: str, module: str, package: str, levels: float, more: dict[str, Any], rounds: int | None = None
        ) -> Contender:
            given = {**self.settings, **more, **self.streamed(name)}
            if "converted" in more:
                given["converted"] = str(self.place.kept / f"jpeg-{more['converted']}-{len(self.shards)}")
            contender = self.peer(name, module, package, given, rounds)
            found: dict[str, float] = {}
            go = contender.go

            def checking(round_: int) -> Answer:
                needs(package)
                if not found:
                    file = checks / f"{module}-{len(list(checks.iterdir()))}.npy"
                    execute([*self.place.peer(module), json.dumps({**given, "check": str(file)})], self.log)
                    found.update(pixels.differences(np.load(file), expected))
                if found and found["mean"] > levels:
                    raise ValueError(f"pixels differ from Pillow's by {found['mean']:.1f} levels, more than {levels:g}")
                return {**go(round_), "pixels": found}

            contender.go = checking
            return contender

        contenders = [
            python("forebay", "forebay_jpeg", "forebay", EXACT_LEVELS, ours),
            *(python(name, *peer, None if name in TARGETS else self.place.few) for name, peer in PEERS.items()),
            python(FAST, "forebay_jpeg", "forebay", SIMILAR_LEVELS, {**ours, "decode": "fast"}, self.place.few),
            python(
                LITTLE, "forebay_jpeg", "forebay", EXACT_LEVELS, {**ours, "epochs": 1, "host_memory_limit": "500MB"}
            ),
            self.limit(self.epochs),
        ]
        # Brings the shards to NVMe: what a process finds there it reads from there.
        execute([*self.place.peer("forebay_jpeg"), json.dumps({**self.settings, **ours, "cold": True})], self.log)
        runs = self.turns(NVME, contenders)
        self.timeline()
        return runs

    def timeline(self) -> None:
        """The stages of an epoch from NVMe, for the report."""
        if self.place.results is None or stopped.is_set():
            return
        try:
            command = [
                self.place.program("forebay"), "trace", "--json", f"--output={self.place.results / 'jpeg_training.trace.json'}",
                f"--batch-size={BATCH}", f"--threads={self.place.threads}", "--image=jpg",
                "--int=cls", f"--cache-dir={self.place.work / 'jpeg-cache'}", "--cache-limit=20GB", "--host-memory-limit=2GB",
                *map(str, self.shards),
            ]  # fmt: skip
            execute(command, self.log)
        except (Failed, FileNotFoundError) as error:
            say(f"  no timeline: {error}")

    def host_memory(self) -> list[Answer]:
        folder = self.place.work / "jpeg-memory"
        more = {"epochs": self.epochs, "cache_dir": str(folder), "tier": "memory"}
        ours = self.peer("forebay", "forebay_jpeg", "forebay", {**self.settings, **more})
        rounds = self.place.rounds if self.place.full else min(self.place.rounds, ROUNDS)
        return self.turns(MEMORY, [self.emptying(folder.name, ours), self.limit(self.epochs)], rounds)

    def cold_s3(self) -> list[Answer]:
        samples = SAMPLES_PER_SHARD * len(self.copies)
        with s3.serving(self.place, s3.indexed(self.place, self.copies, self.log)) as server:
            cold = {**self.settings, "samples": samples, "cold": True}
            ours = {
                **cold,
                "shards": list(map(s3.url, self.copies)),
                "storage_options": server.storage_options,
                "cache_dir": str(self.place.work / "jpeg-cold"),
            }
            files = s3.downloads(self.place, server, self.copies, self.place.work / "jpeg-files", self.log)
            contenders = [
                self.emptying("jpeg-cold", self.peer("forebay", "forebay_jpeg", "forebay", ours)),
                *(in_images(download, samples) for download in files),
                self.over_http(server, cold),
                self.limit(1),
            ]
            return self.turns(S3, contenders)

    def over_http(self, server: SeaweedFS, settings: dict[str, Any]) -> Contender:
        urls = [f"{server.url}/{s3.BUCKET}/{shard.name}" for shard in self.copies]
        module, package, _, more = PEERS[OVER_HTTP]
        contender = self.peer(OVER_HTTP, module, package, {**settings, **more, "shards": urls}, self.place.few)
        go = contender.go

        def run(round_: int) -> Answer:
            s3.curl()
            return go(round_)

        contender.go = run
        return contender

    def peer(
        self,
        name: str,
        module: str,
        package: str,
        settings: dict[str, Any],
        rounds: int | None = None,
    ) -> Contender:
        """A Python program whose batches are as they should be."""
        command = [*self.place.peer(module), json.dumps(settings)]

        def go(_: int) -> Answer:
            needs(package)
            return checked(execute(command, self.log))

        return Contender(name, go, command, rounds)

    def emptying(self, folder: str, contender: Contender) -> Contender:
        """The contender, with an empty cache folder for each run."""
        go = contender.go

        def run(round_: int) -> Answer:
            self.place.empty(folder)
            return go(round_)

        contender.go = run
        return contender

    def limit(self, epochs: int) -> Contender:
        command = [
            self.place.program("crops"), f"--threads={self.place.threads}", f"--batch={BATCH}", f"--epochs={1 + epochs}",
            *map(str, self.shards),
        ]  # fmt: skip
        return Contender(LIMIT, lambda _: checked(execute(command, self.log)), command)


def in_images(download: Contender, samples: int) -> Contender:
    """A download's rate as that of the images that it brings."""
    go = download.go

    def run(round_: int) -> Answer:
        answer = go(round_)
        return {**answer, "value": samples / answer["seconds"], "samples": samples}

    download.go = run
    return download


def cold_bound(table: list[Answer]) -> str | None:
    """What training from cold S3 can't be faster than: the fastest plain download, or decoding alone where that is slower."""
    medians = {row["contender"]: row["median"] for row in table if row["case"] == S3 and "median" in row}
    best = max((name for name in s3.DOWNLOADS if name in medians), key=lambda name: medians[name], default=None)
    return min((best, LIMIT), key=lambda name: medians[name]) if best and LIMIT in medians else None


def targets(table: list[Answer]) -> list[Answer]:
    def over(what: str, theirs: str | None, case: str, least: float | None = None) -> Answer:
        found = ratio(table, "forebay", [theirs], case) if theirs else None
        return target(f"images/s over {what}, {case}", found and found[0], least=least)

    cpu = {row["contender"]: row.get("cpu_seconds_per_unit") for row in table if row["case"] == NVME}
    ours, alone = cpu.get("forebay"), cpu.get(LIMIT)
    bound = cold_bound(table)
    return [
        over("crop decode + resize alone", LIMIT, NVME, 0.85),
        target(
            "CPU per image over crop decode + resize alone, NVMe", ours / alone if ours and alone else None, most=1.15
        ),
        *(over(name, name, NVME, least) for name, least in TARGETS.items()),
        over("crop decode + resize alone", LIMIT, MEMORY),
        over(f"the slower of decoding and the fastest download{f' ({bound})' if bound else ''}", bound, S3, 0.95),
    ]


def checked(answer: Answer) -> Answer:
    """An answer whose batches are what was asked for."""
    if answer["output"] != OUTPUT:
        raise ValueError(f"batches are {answer['output']}, and should be {OUTPUT}")
    return answer
