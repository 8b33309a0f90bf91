"""Small records: 10 kB of features and a little JSON per sample, in tar shards on NVMe."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from photos import write_tar

from ..measure import Contender, execute, needs, peaks, ratio, rows, take_turns, target
from ..place import Place, warm

TITLE = "Small records, warm NVMe (10 kB of .npy features and JSON in tar, shuffled, batch 256)"
NEED_BYTES = 2 << 30

BATCH = 256
FEATURES = 2500  # float32: 10 kB
SAMPLES_PER_SHARD = 20 * BATCH
OUTPUT = {"shape": [BATCH, FEATURES], "dtype": "float32"}

# Name: module, what it can't do without.
PEERS = {
    "WebDataset": ("webdataset_records", "webdataset"),
    "MosaicML Streaming": ("streaming_records", "mosaicml-streaming"),
}
TARGETS = {"WebDataset": 5.0}
LITTLE = "forebay, 300 MB of host memory"
# Of an endless stream: of its 20 batches of a shard, those that fill its buffers.
WARM_UP = {"WebDataset": {"warm_up_batches": 8}}


def run(place: Place) -> dict[str, Any]:
    folder = place.empty("records")
    shards = [cut(folder / f"records-{at:03}.tar", at) for at in range(place.scaled(4, 2, full=8))]
    warm(shards)
    log = place.logs / "small_records.log"
    settings = {
        "shards": [str(shard) for shard in shards],
        "samples": SAMPLES_PER_SHARD * len(shards),
        "features": FEATURES,
        "batch_size": BATCH,
        "threads": place.threads,
        "seed": 0,
        "epochs": 1,
        "cache_dir": str(place.empty("records-cache")),
        "tier": "nvme",
        "host_memory_limit": "2GB",
        "converted": str(place.empty("records-own") / "mds"),
    }
    checks = place.empty("records-checks")

    def python(name: str, module: str, package: str, rounds: int | None = None, **more: Any) -> Contender:
        command = [*place.peer(module), json.dumps({**settings, **WARM_UP.get(name, {}), **more})]

        def go(_: int) -> dict[str, Any]:
            needs(package)
            file = checks / f"{module}.npy"
            if not file.exists():
                execute([*place.peer(module), json.dumps({**settings, "check": str(file)})], log)
            if not np.array_equal(np.load(file), np.stack([record(0, at)[0] for at in range(BATCH)])):
                raise ValueError("its first batch has other values than the first records")
            answer = execute(command, log)
            if answer["output"] != OUTPUT:
                raise ValueError(f"batches are {answer['output']}, and should be {OUTPUT}")
            return answer

        return Contender(name, go, command, rounds)

    contenders = [
        python("forebay", "forebay_records", "forebay"),
        python(LITTLE, "forebay_records", "forebay", host_memory_limit="300MB"),
        *(python(name, *peer, None if name in TARGETS else place.few) for name, peer in PEERS.items()),
    ]
    # Brings the shards to NVMe: what a process finds there it reads from there.
    execute([*place.peer("forebay_records"), json.dumps({**settings, "cold": True})], log)
    runs = take_turns(contenders, place.rounds)
    for name in ("records", "records-cache", "records-own", "records-checks"):
        place.remove(name)
    table = rows(runs, "records/s")
    over = {name: ratio(table, "forebay", [name]) for name in PEERS}
    return {
        "unit": "records/s",
        "conditions": (
            f"{len(shards)} shards of {SAMPLES_PER_SHARD} records; {place.threads} threads or worker processes each; one epoch "
            "of warm-up, 8 batches of WebDataset's endless stream, and one measured; a process per run. forebay reads with "
            "O_DIRECT from its cache folder on NVMe; the others "
            "read the shards, or MDS shards made from them beforehand, from the page cache (in their favour). forebay reads the "
            "blocks of a window in one piece each as far as they fit into host memory, here all of them; with 300 MB a "
            "small part, and the other records are read one by one, as in a dataset with a window larger than host memory. "
            "Every one's first batch in storage order is compared with what was written, and has to be equal."
        ),
        "page_cache": "warm: the shards are read before. forebay reads past it, with O_DIRECT.",
        "settings": settings,
        "commands": {contender.name: contender.command for contender in contenders},
        "runs": runs,
        "rows": table,
        "targets": [
            target(f"records/s over {name}", found and found[0], least=TARGETS.get(name))
            for name, found in over.items()
        ]
        + peaks(table, 2_000_000_000),
    }


def record(shard: int, at: int) -> tuple[Any, dict[str, Any]]:
    """The features and the document of a sample: the same every time."""
    features = np.random.default_rng((shard, at)).standard_normal(FEATURES, dtype=np.float32)
    return features, {"id": shard * SAMPLES_PER_SHARD + at, "label": at % 1000, "split": "train"}


def cut(path: Path, shard: int) -> Path:
    """A shard of records."""

    def members() -> Any:
        for at in range(SAMPLES_PER_SHARD):
            features, about = record(shard, at)
            array = io.BytesIO()
            np.save(array, features)
            yield f"{shard:03}-{at:06}.npy", array.getvalue()
            yield f"{shard:03}-{at:06}.json", json.dumps(about).encode()

    write_tar(path, members())
    return path
