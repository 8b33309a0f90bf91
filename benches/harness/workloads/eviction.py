"""A dataset larger than the cache, whose blocks come and go all the time, against fio moving and punching as much."""

from __future__ import annotations

from typing import Any

from ..measure import Answer, execute, ratio, rows, say, target
from ..place import Place

TITLE = "A dataset twice as large as the cache: reads, writes and evictions, against fio's same mixture"
NEED_BYTES = 6 << 30


def run(place: Place) -> dict[str, Any]:
    # The measuring program starts it.
    place.installed("fio")
    folder = place.empty("eviction")
    command = [
        place.program("evicting"),
        f"--folder={folder}",
        f"--gib={place.scaled(4, 1)}",
        f"--threads={place.threads}",
        f"--rounds={place.rounds}",
        f"--seconds={place.scaled(5, 2)}",
        "--depth=16",
    ]
    runs: list[Answer] = execute(command, place.logs / "eviction.log", json_lines=True)
    place.remove("eviction")
    for entry in runs:
        entry["case"] = ""
        say(f"  round {entry['round'] + 1}  {entry['contender']}: {entry['value']:.3f} GB/s")
    table = rows(runs, "GB/s")
    found = ratio(table, "forebay", ["fio"])
    fio: list[str] = next((entry["command"] for entry in runs if entry["contender"] == "fio"), [])
    return {
        "unit": "GB/s",
        "conditions": (
            "Drawn blocks of 4 MiB, 16 at once; about half are cached, the others come from an origin in memory that costs "
            "nothing and are written with their checksums. Counted is what is read from disk and written to it. fio, right "
            "after each of our runs: random reads and writes of 4 MiB of one file of the cache's size in the same proportion, "
            "16 at once, O_DIRECT and io_uring, beside as many allocations and punches of 4 MiB per second in another file "
            "(ioengine falloc). fio rewrites blocks in place; a cache can't."
        ),
        "page_cache": "plays no part: both read and write with O_DIRECT.",
        "settings": {"share": 0.5},
        "commands": {"forebay": command, "fio": fio},
        "runs": runs,
        "rows": table,
        "targets": [target("GB/s over fio's same mixture", found and found[0], least=0.8)],
        "limits": {"": "fio"},
        "tiers": {"": "NVMe, evicting"},
    }
