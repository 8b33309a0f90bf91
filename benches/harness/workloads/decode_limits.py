"""What decoding takes, step by step: the coefficients, all pixels, the pixels of a training crop.

With Forebay's Huffman decoder and with libjpeg-turbo's own; everything else of the two is the same library.
"""

from __future__ import annotations

from functools import partial

from ..measure import Answer, program, ratio, rows, sections, take_turns, target
from ..place import Place

TITLE = "Decoding alone, JPEGs in memory, one thread (500×375 photographs)"
NEED_BYTES = 1 << 30

STEPS = {
    "entropy": "Huffman decoding alone",
    "whole": "whole image",
    "crop": "training crop, not resized",
}
DECODERS = ("forebay", "libjpeg-turbo")


def run(place: Place) -> Answer:
    shard = place.photos(1)[0]
    log = place.logs / "decode_limits.log"
    commands: dict[str, list[str]] = {}

    def turns(step: str, case: str) -> list[Answer]:
        contenders = []
        for name in DECODERS:
            command = [place.program("limits"), "--threads=1", "decode", step, f"--huffman={name}", str(shard)]
            commands[f"{name}, {case}"] = command
            contenders.append(program(name, command, log))
        return take_turns(contenders, place.rounds if place.full else min(place.rounds, 3), case)

    runs = sections({case: partial(turns, step, case) for step, case in STEPS.items()})
    table = rows(runs, "images/s")
    reached = [(case, ratio(table, "forebay", ["libjpeg-turbo"], case)) for case in STEPS.values()]
    return {
        "unit": "images/s",
        "conditions": (
            "One thread decodes the photographs of a shard, which lie in memory: once to warm up, once measured. A training "
            "crop is the box that RandomResizedCrop draws: rows above it are decoded as far as their coefficients go, rows "
            "below it not at all. libjpeg-turbo is 3.1 with its SIMD code."
        ),
        "page_cache": "plays no part.",
        "settings": {"steps": STEPS},
        "commands": commands,
        "runs": runs,
        "rows": table,
        "targets": [target(f"images/s over libjpeg-turbo, {case}", found and found[0]) for case, found in reached],
    }
