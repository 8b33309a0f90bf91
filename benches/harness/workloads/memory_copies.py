"""Plain copies of memory: what no loader that copies a batch once can be faster than."""

from __future__ import annotations

import json

from ..measure import Answer, Contender, LeftOut, execute, program, rows, take_turns
from ..place import Place

TITLE = "Copying memory (memcpy between buffers of 64 MiB; pinned memory to the GPU)"
NEED_BYTES = 0

BUFFER_BYTES = 64 << 20
TO_DEVICE = "pinned, host to device"


def run(place: Place) -> Answer:
    log = place.logs / "memory_copies.log"
    runs: list[Answer] = []
    commands: dict[str, list[str]] = {}
    times = place.scaled(32, 2)
    for threads in sorted({1, place.threads}):
        case = f"{threads} thread{'s' if threads > 1 else ''}"
        command = [place.program("limits"), f"--threads={threads}", "copy", f"--times={times}"]
        commands[f"memcpy, {case}"] = command
        runs += take_turns([program("memcpy", command, log)], place.rounds, case)
    command = [*place.peer("pinned_copies"), json.dumps({"bytes": BUFFER_BYTES, "times": 4 * times})]
    commands[TO_DEVICE] = command

    def to_device(_: int) -> Answer:
        answer = execute(command, log)
        if "left_out" in answer:
            raise LeftOut(answer["left_out"])
        return answer

    runs += take_turns([Contender("cuMemcpyHtoDAsync", to_device, command)], place.rounds, TO_DEVICE)
    return {
        "unit": "GB/s",
        "conditions": (
            "Each thread copies a buffer of its own to another one; bytes copied, by all threads together. To the device: a "
            "buffer of 64 MiB of the driver's pinned memory, copied over and over on one stream, by the device's own clock; what "
            "arrived is compared."
        ),
        "settings": {"buffer_bytes": BUFFER_BYTES},
        "commands": commands,
        "runs": runs,
        "rows": rows(runs, "GB/s"),
        "targets": [],
    }
