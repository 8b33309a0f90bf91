"""A dataset larger than the cache, whose blocks come and go all the time, against fio moving and punching as much."""

from __future__ import annotations

from typing import Any

from ..measure import collect, left_out, ratio, rows, target
from ..place import Place

TITLE = "A dataset twice as large as the cache: reads, writes and evictions, against fio's same mixture"
NEED_BYTES = 6 << 30


def run(place: Place) -> dict[str, Any]:
    no_fio = place.lacks("fio")
    folder = place.empty("eviction")
    command = [
        place.program("evicting"),
        f"--folder={folder}",
        f"--gib={place.scaled(4, 1)}",
        f"--threads={place.threads}",
        f"--rounds={place.rounds}",
        f"--seconds={5 if place.full else 2}",
        "--depth=16",
        *(["--without-fio"] if no_fio else []),
    ]
    runs = collect(command, place.logs / "eviction.log", "GB/s", lambda _: "")
    place.remove("eviction")
    if no_fio:
        runs += left_out("fio", [""], no_fio)
    table = rows(runs, "GB/s")
    found = ratio(table, "forebay", ["fio"])
    fio: list[str] = next((entry["command"] for entry in runs if "command" in entry), [])
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
