"""Cached blocks: reads of random places through the cache, checksums verified, against fio on the same files."""

from __future__ import annotations

from typing import Any

from ..measure import execute, ratio, rows, say, target
from ..place import Place

TITLE = "Reading cached blocks, checksums verified, 32 reads in flight"
NEED_BYTES = 3 << 30

SIZES = {"128 KiB": 128 << 10, "1 MiB": 1 << 20, "4 MiB": 4 << 20}


def run(place: Place) -> dict[str, Any]:
    folder = place.empty("cached-reads")
    command = [
        place.program("cached"),
        f"--folder={folder}",
        f"--gib={place.scaled(2, 1)}",
        f"--threads={place.threads}",
        f"--rounds={place.rounds}",
        f"--seconds={place.scaled(2, 1)}",
        f"--sizes={','.join(str(size) for size in SIZES.values())}",
    ]
    runs = execute(command, place.logs / "cached_reads.log", json_lines=True)
    place.remove("cached-reads")
    names = {size: case for case, size in SIZES.items()}
    for entry in runs:
        entry["case"] = names[entry["block_bytes"]]
        say(f"  {entry['case']} round {entry['round'] + 1}  {entry['contender']}: {entry['value']:.3f} GB/s")
    table = rows(runs, "GB/s")
    targets = []
    for case in SIZES:
        found = ratio(table, "forebay", ["fio"], case)
        targets.append(target(f"GB/s over fio, {case}", found and found[0], least=0.95))
    fio: list[str] = next((entry["command"] for entry in runs if entry["contender"] == "fio"), [])
    return {
        "unit": "GB/s",
        "conditions": (
            "Random places of 8 cached objects; both read the same files with O_DIRECT through io_uring, so the page cache "
            "plays no part; nothing of them is in the host tier. fio runs one job and verifies nothing."
        ),
        "settings": {"sizes": SIZES},
        "commands": {"forebay": command, "fio": fio},
        "runs": runs,
        "rows": table,
        "targets": targets,
    }
