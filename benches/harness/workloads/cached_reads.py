"""Cached blocks: reads through the cache, in order and of drawn places, checksums verified, against fio on the same files."""

from __future__ import annotations

import os
import statistics
from typing import Any

from ..measure import Answer, collect, curve, left_out, ratio, rows, target
from ..place import Place

TITLE = "Reading cached blocks, checksums verified, 32 reads in flight"
NEED_BYTES = 3 << 30

SIZES = {
    "4 KiB": 4 << 10, "16 KiB": 16 << 10, "64 KiB": 64 << 10, "128 KiB": 128 << 10, "256 KiB": 256 << 10,
    "1 MiB": 1 << 20, "4 MiB": 4 << 20, "16 MiB": 16 << 20,
}  # fmt: skip

# The others come with `make bench-full`.
USUAL = ("4 KiB", "64 KiB", "128 KiB", "1 MiB", "16 MiB")

# Of a run: at 2 GB/s that is 9,000 reads of 128 KiB.
SECONDS = 0.6
# Below what is promised.
ROUNDS = 3

ORDERS = ("random", "sequential")

# What is promised begins here: below it the granule of 4 KiB and the work per read count.
PROMISED_BYTES = 128 << 10


def run(place: Place) -> dict[str, Any]:
    sizes = SIZES if place.full else {name: SIZES[name] for name in USUAL}
    cases = {f"{order}, {name}": (order, size) for order in ORDERS for name, size in sizes.items()}
    no_fio = place.lacks("fio")
    folder = place.empty("cached-reads")
    command = [
        place.program("cached"),
        f"--folder={folder}",
        f"--gib={place.scaled(2, 1)}",
        f"--threads={place.threads}",
        f"--rounds={place.rounds}",
        f"--small-rounds={place.rounds if place.full else min(place.rounds, ROUNDS)}",
        f"--seconds={1 if place.full else SECONDS}",
        f"--sizes={','.join(map(str, sizes.values()))}",
        *(["--without-fio"] if no_fio else []),
    ]
    names = {size: name for name, size in sizes.items()}
    runs = collect(
        command,
        place.logs / "cached_reads.log",
        "GB/s",
        lambda entry: f"{entry['order']}, {names[entry['block_bytes']]}",
    )
    place.remove("cached-reads")
    if no_fio:
        runs += left_out("fio", cases, no_fio)
    table = rows(runs, "GB/s")
    fio: list[str] = next((entry["command"] for entry in runs if "command" in entry), [])
    return {
        "unit": "GB/s",
        "conditions": (
            "8 cached objects; both read the same files with O_DIRECT through io_uring; nothing of them is in the host tier. "
            f"fio verifies nothing; it reads with 1 or {place.threads} processes, with and without "
            "registered buffers and files, and the setting that is fastest in a first run takes part. "
            'Places are multiples of the size; "anywhere" are drawn multiples of 512, where members of a tar begin.'
        ),
        "page_cache": "plays no part: both read with O_DIRECT.",
        "settings": {"sizes": sizes},
        "commands": {"forebay": command, "fio": fio},
        "runs": runs,
        "rows": table,
        "targets": [*rates(table, sizes), *amplification(runs, sizes), price(runs)],
        "limits": dict.fromkeys(cases, "fio"),
        "tiers": dict.fromkeys(cases, "NVMe"),
        "curves": [
            curve(
                table,
                {case: size for case, (of, size) in cases.items() if of == order},
                title=f"GB/s against read size, {order}",
                x="bytes per read",
                y="GB/s",
            )
            for order in ORDERS
        ],
    }


def rates(table: list[Answer], sizes: dict[str, int]) -> list[Answer]:
    """Our rate over fio's."""
    found = []
    for order in ORDERS:
        for name, size in sizes.items():
            reached = ratio(table, "forebay", ["fio"], f"{order}, {name}")
            least = 0.95 if size >= PROMISED_BYTES else None
            found.append(target(f"GB/s over fio, {order}, {name}", reached and reached[0], least=least))
    return found


def amplification(runs: list[Answer], sizes: dict[str, int]) -> list[Answer]:
    """What the disk reads for each byte that was asked for."""
    found = []
    for name, size in sizes.items():
        for contender in ("forebay", "forebay, anywhere"):
            mine = [
                run["disk_bytes_per_byte"]
                for run in runs
                if (run["contender"], run["case"]) == (contender, f"random, {name}")
            ]
            if mine and size < PROMISED_BYTES:
                what = f"bytes from disk per byte read, random, {name}{contender.removeprefix('forebay')}"
                found.append(target(what, statistics.median(mine)))
    return found


def price(runs: list[Answer]) -> Answer:
    """What verifying costs at the highest rate: as measured alone on one core, of all cores. It can't be switched off."""
    ours = [run for run in runs if run["contender"] == "forebay"]
    shares = [run["value"] / run["checksum_gb_per_s_per_core"] / len(os.sched_getaffinity(0)) for run in ours]
    return target("checksums' share of the processors, at the fastest reads", max(shares, default=None), most=0.02)
