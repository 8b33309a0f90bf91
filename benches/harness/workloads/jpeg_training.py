"""JPEG training from NVMe: RandomResizedCrop 224 and flip, batches of 256, uint8 NHWC."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .. import pixels
from ..install import refused
from ..measure import Contender, Failed, execute, ratio, rows, take_turns, target
from ..place import Place, warm

TITLE = "JPEG training, warm NVMe (RandomResizedCrop 224, flip, batch 256, 500×375 photographs)"
NEED_BYTES = 4 << 30
# The photographs, and what peers make of them in their own formats.
KEPT_BYTES = 2 << 30

BATCH = 256
# A multiple of the batch: a peer that ends its epochs drops nothing, whichever way it shares shards out.
SAMPLES_PER_SHARD = 2 * BATCH
OUTPUT = {"shape": [BATCH, 224, 224, 3], "dtype": "uint8"}
LIMIT = "limit: crop decode + resize alone"

# What a batch may differ from Pillow's by, on average, in levels: the same decoding and the same filter, rounded otherwise.
EXACT_LEVELS = 2.0
# Other colour conversions and filters, or a crop half a pixel away: SPDL has 2.2, DALI 2.9. Another order or crop is far above.
SIMILAR_LEVELS = 5.0

# Name: module, what it can't do without, levels, more settings.
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
CONDITIONS = (
    "{shards} shards of {samples} photographs; {threads} decoding threads or worker processes each; one epoch of warm-up, "
    "one measured; a process per run. forebay reads with O_DIRECT from its cache folder on NVMe; the others read the shards, or "
    "their own format made from them beforehand, from the page cache (in their favour); the limit has the JPEGs in its memory. "
    "Before its first run each gives a batch without randomness (shorter side 256, middle 224), which is compared with "
    "Pillow's: `pixels` in the runs, levels of 255. With worker processes, peak RSS is the sum of all, shared pages once each."
)
TARGETS = {"DALI (CPU)": 3.0, "WebDataset + Pillow": 5.0, "WebDataset + torchvision.io": 3.0, "SPDL": 3.0}


def run(place: Place) -> dict[str, Any]:
    shards = place.photos(place.scaled(8, 2), SAMPLES_PER_SHARD)
    warm(shards)
    log = place.logs / "jpeg_training.log"
    settings = {
        "shards": [str(shard) for shard in shards],
        "samples": SAMPLES_PER_SHARD * len(shards),
        "batch_size": BATCH,
        "threads": place.threads,
        "seed": 0,
        "epochs": 1,
        "cache_dir": str(place.empty("jpeg-cache")),
        "cache_limit": "20GB",
        "host_memory_limit": "2GB",
        "tier": "nvme",
        "decode": "exact",
    }
    checks = place.empty("jpeg-checks")
    expected = pixels.reference(shards[0], BATCH)

    def python(name: str, module: str, package: str, levels: float, more: dict[str, Any]) -> Contender:
        given = {**settings, **more}
        if "converted" in more:
            given["converted"] = str(place.kept / f"jpeg-{more['converted']}-{len(shards)}")
        command = [*place.peer(module), json.dumps(given)]
        found: dict[str, float] = {}

        def go(_: int) -> dict[str, Any]:
            if why := refused(package):
                raise Failed(f"{package} does not install: {why}")
            if not found:
                file = checks / f"{module}-{len(list(checks.iterdir()))}.npy"
                execute([*place.peer(module), json.dumps({**given, "check": str(file)})], log)
                found.update(pixels.differences(np.load(file), expected))
            if found["mean"] > levels:
                raise ValueError(f"pixels differ from Pillow's by {found['mean']:.1f} levels, more than {levels:g}")
            return {**checked(execute(command, log)), "pixels": found}

        return Contender(name, go, command)

    crops = [place.program("crops"), f"--threads={place.threads}", f"--batch={BATCH}", *map(str, shards)]
    contenders = [
        python("forebay", "forebay_jpeg", "forebay", EXACT_LEVELS, {}),
        *(python(name, *peer) for name, peer in PEERS.items()),
        python('forebay, decode="fast"', "forebay_jpeg", "forebay", SIMILAR_LEVELS, {"decode": "fast"}),
        Contender(LIMIT, lambda _: checked(execute(crops, log)), crops),
    ]
    # Brings the shards to NVMe: what a process finds there it reads from there.
    execute([*place.peer("forebay_jpeg"), json.dumps({**settings, "tier": "memory"})], log)
    runs = take_turns(contenders, place.rounds)
    for folder in ("jpeg-cache", "jpeg-checks"):
        place.remove(folder)
    table = rows(runs, "images/s")
    return {
        "unit": "images/s",
        "conditions": CONDITIONS.format(shards=len(shards), samples=SAMPLES_PER_SHARD, threads=place.threads),
        "page_cache": "warm: shards, and what peers made of them, are read before. forebay reads past it, with O_DIRECT.",
        "settings": settings,
        "commands": {contender.name: contender.command for contender in contenders},
        "runs": runs,
        "rows": table,
        "targets": targets(table),
        "tiers": {"": "NVMe"},
    }


def targets(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    limit = ratio(table, "forebay", [LIMIT])
    cpu = {row["contender"]: row.get("cpu_seconds_per_unit") for row in table}
    ours, alone = cpu.get("forebay"), cpu.get(LIMIT)
    found = [
        target("images/s over crop decode + resize alone", limit and limit[0], least=0.85),
        target("CPU per image over crop decode + resize alone", ours / alone if ours and alone else None, most=1.15),
    ]
    for name, least in TARGETS.items():
        over = ratio(table, "forebay", [name])
        found.append(target(f"images/s over {name}", over and over[0], least=least))
    return found


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose batches are what was asked for."""
    if answer["output"] != OUTPUT:
        raise ValueError(f"batches are {answer['output']}, and should be {OUTPUT}")
    return answer
