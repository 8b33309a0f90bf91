"""Plain copies of memory: what no loader that copies a batch once can be faster than."""

from __future__ import annotations

from ..measure import Answer, program, rows, take_turns
from ..place import Place

TITLE = "Copying memory (memcpy between buffers of 64 MiB)"
NEED_BYTES = 0


def run(place: Place) -> Answer:
    log = place.logs / "memory_copies.log"
    runs: list[Answer] = []
    commands: dict[str, list[str]] = {}
    for threads in sorted({1, place.threads}):
        case = f"{threads} thread{'s' if threads > 1 else ''}"
        command = [place.program("limits"), f"--threads={threads}", "copy", f"--times={place.scaled(32, 2)}"]
        commands[f"memcpy, {case}"] = command
        runs += take_turns([program("memcpy", command, log)], place.rounds, case)
    return {
        "unit": "GB/s",
        "conditions": "Each thread copies a buffer of its own to another one; bytes copied, by all threads together.",
        "settings": {},
        "commands": commands,
        "runs": runs,
        "rows": rows(runs, "GB/s"),
        "targets": [],
    }
