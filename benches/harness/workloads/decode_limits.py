"""What decoding takes, step by step: the coefficients, all pixels, the pixels of a training crop; with Forebay's Huffman decoder and with
libjpeg-turbo's own. Everything else of the two is the same library."""

from __future__ import annotations

from ..measure import Answer, Contender, execute, ratio, rows, take_turns, target
from ..place import Place
from .jpeg_training import SAMPLES_PER_SHARD

TITLE = "Decoding alone, JPEGs in memory, one thread (500×375 photographs)"
NEED_BYTES = 1 << 30

STEPS = {
    "entropy": "Huffman decoding alone",
    "whole": "whole image",
    "crop": "training crop, not resized",
}
DECODERS = {"forebay": "forebay", "libjpeg-turbo": "libjpeg-turbo"}


def run(place: Place) -> Answer:
    shard = place.photos(1, place.scaled(SAMPLES_PER_SHARD, 64))[0]
    log = place.logs / "decode_limits.log"
    runs: list[Answer] = []
    commands: dict[str, list[str]] = {}
    for step, case in STEPS.items():
        contenders = []
        for name, huffman in DECODERS.items():
            command = [place.program("limits"), "--threads=1", "decode", step, f"--huffman={huffman}", str(shard)]
            commands[f"{name}, {case}"] = command
            contenders.append(Contender(name, lambda _, command=command: execute(command, log), command))
        runs += take_turns(contenders, place.rounds, case)
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
