"""Batches to a device over a bus as slow as decoding, on the simulated driver: copies beside decoding and the consumer."""

from __future__ import annotations

import json
from typing import Any

from ..measure import Answer, Contender, execute, rows, say, take_turns, target
from ..place import SAMPLES_PER_SHARD, Place, warm
from .jpeg_training import BATCH, checked

TITLE = "Batches to a device, copying as slow as decoding (simulated driver; no GPU takes part)"
NEED_BYTES = 1 << 30

ALONE = "decoding alone, in host memory"
COPIED = "forebay, to the device"
CONSUMED = "forebay, to the device, with a consumer as slow"
IMAGE_BYTES = 224 * 224 * 3
LABEL_BYTES = 8
LEAST = 0.95


def run(place: Place) -> Answer:
    shards = place.photos(place.scaled(4, 2, full=8))
    warm(shards)
    log = place.logs / "device_overlap.log"
    settings: dict[str, Any] = {
        "shards": [str(shard) for shard in shards],
        "batch_size": BATCH,
        "threads": place.threads,
        "epochs": place.scaled(3, 1),
        "cache_dir": str(place.empty("device-cache")),
        "host_memory_limit": "2GB",
    }

    def command(**more: Any) -> list[str]:
        return [*place.peer("forebay_device"), json.dumps({**settings, **more})]

    # How fast decoding is sets how slow the bus and the consumer are.
    images = execute(command(device="cpu"), log)["value"]
    bus = images * (IMAGE_BYTES + LABEL_BYTES) / 1e9
    say(
        f"  decoding alone gives {images:.0f} images/s; the bus is to move {bus:.3f} GB/s, the consumer to take as long"
    )
    driver = simulated(place)
    env = {
        "LD_LIBRARY_PATH": str(driver),
        "FOREBAY_FAKE_CUDA_BUS_GBPS": f"{bus:.6f}",
        "FOREBAY_FAKE_CUDA_DELAY_US": "0",
        # Its checks hash what is copied, and its account of leaks is for tests.
        "FOREBAY_FAKE_CUDA_GUARD": "0",
        # A device's copy engines take no processor: copies take the bus's time and move nothing.
        "FOREBAY_FAKE_CUDA_MOVES": "0",
        "FOREBAY_FAKE_CUDA_LEAKS": "0",
    }
    commands = {
        ALONE: command(device="cpu"),
        COPIED: command(device="cuda"),
        CONSUMED: command(device="cuda", consumer_seconds=BATCH / images),
    }

    def contender(name: str) -> Contender:
        more = None if name == ALONE else env
        return Contender(name, lambda _: checked(execute(commands[name], log, more)), commands[name])

    runs = take_turns([contender(name) for name in commands], place.rounds)
    place.remove("device-cache")
    table = rows(runs, "images/s")
    medians = {row["contender"]: row["median"] for row in table if "median" in row}
    # The bus and the consumer are as fast as decoding was in a first run; in these rounds it may be faster or slower.
    slower = min(images, medians.get(ALONE, images))

    def share(name: str) -> float | None:
        return medians[name] / slower if name in medians else None

    return {
        "unit": "images/s",
        "conditions": (
            f"{len(shards)} shards of {SAMPLES_PER_SHARD} photographs from NVMe; {place.threads} decoding threads; a process per "
            f"run. The simulated driver moves {bus:.3f} GB/s, as much as decoding makes ({images:.0f} images/s in a first run); "
            "its copies take that time and, as a device's, no processor. The consumer sleeps for as long for each batch."
        ),
        "page_cache": "plays no part: forebay reads with O_DIRECT.",
        "settings": settings,
        "commands": commands,
        "runs": runs,
        "rows": table,
        "targets": [
            target("images/s over the slower of decoding and copying alone", share(COPIED), least=LEAST),
            target("images/s over the slower of decoding, copying and the consumer", share(CONSUMED), least=LEAST),
        ],
        "limits": {"": ALONE},
    }


def simulated(place: Place) -> Any:
    """A folder with the simulated driver under the driver's names."""
    library = place.bin / "libforebay_fake_cuda.so"
    if not library.exists():
        raise FileNotFoundError(f"{library} is not built: cargo build --release -p forebay-fake-cuda")
    folder = place.empty("device-driver")
    for name in ("libcuda.so.1", "libcuda.so"):
        (folder / name).symlink_to(library)
    return folder
