"""What the number of samples costs: the plan of an epoch of 10³ to 10⁹ samples, entered in its middle, to a batch's members."""

from __future__ import annotations

import json
import re
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from ..measure import Answer, Contender, LeftOut, curve, program, rows, sections, take_turns, target
from ..place import Place

TITLE = "Number of samples: from nothing to the first batch, in the middle of a shuffled epoch (simulated index)"
NEED_BYTES = 1 << 30

EXPONENTS = range(3, 10)
SIZES = {f"10^{exponent}": 10**exponent for exponent in EXPONENTS}

# Of a list of all numbers: 8 bytes in torch's tensor, a pointer and an int in Python's list, and the tensor's copy of itself.
BYTES_PER_NUMBER = 56
# From here on a run of torch's takes seconds, and shows the same each time.
SLOW = 10**7


def run(place: Place) -> Answer:
    shard = place.photos(1)[0]
    log = place.logs / "dataset_size.log"
    commands: dict[str, list[str]] = {}

    def turns(case: str, samples: int) -> list[Answer]:
        ours = [place.program("samples"), f"--samples={samples}", str(shard)]
        torch = [*place.peer("torch_sampler"), json.dumps({"samples": samples, "batch_size": 256})]
        commands.update({f"forebay, {case}": ours, f"torch RandomSampler, {case}": torch})
        contenders = [
            program("forebay", ours, log),
            sampler(samples, torch, log, place.few),
        ]
        return take_turns(contenders, place.rounds, case)

    runs = sections({case: partial(turns, case, samples) for case, samples in SIZES.items()})
    table = rows(runs, "ms", "less")
    return {
        "unit": "ms",
        "better": "less",
        "conditions": (
            "forebay: the order of an epoch of shards of 10,000 samples each is laid out, entered in its middle, and the "
            "first batch of 256 samples is looked up, one after the other, members and byte ranges included; the index of "
            "each shard is that of a real one of photographs. torch: RandomSampler, which DataLoader(shuffle=True) uses, up "
            "to its first 256 numbers; it can't be entered in the middle. Neither reads a sample. A process per run; imports "
            "are not counted."
        ),
        "page_cache": "plays no part.",
        "settings": {"sizes": SIZES},
        "commands": commands,
        "runs": runs,
        "rows": table,
        "targets": targets(runs),
        "curves": [
            curve(table, SIZES, title="First batch against the number of samples", x="samples", y="ms"),
            curve(
                table,
                SIZES,
                title="Peak RSS against the number of samples (torch with its libraries)",
                x="samples",
                y="bytes",
                entry="peak_rss_bytes",
            ),
        ],
    }


def sampler(samples: int, command: list[str], log: Path, rounds: int) -> Contender:
    """torch's, left out where its list would not fit into memory."""
    contender = program("torch RandomSampler", command, log)
    contender.rounds = 1 if samples >= SLOW else rounds
    need, memory = samples * BYTES_PER_NUMBER, available_bytes()

    def refuse(_: int) -> Answer:
        raise LeftOut(f"its list of all numbers takes about {need / 1e9:.0f} GB; {memory / 1e9:.0f} GB are free")

    if need > memory:
        contender.go = refuse
    return contender


def available_bytes() -> int:
    """Memory that a new process can have without others being swapped out or killed."""
    (kib,) = re.findall(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(kib) * 1024


def targets(runs: list[Answer]) -> list[Answer]:
    ours = [run for run in runs if run["contender"] == "forebay" and "value" in run]

    def median(name: str, case: str) -> float | None:
        found: list[Any] = [run[name] for run in ours if run["case"] == case and run.get(name) is not None]
        return statistics.median(found) if found else None

    grown = median("grown_bytes", "10^9")
    return [
        target("ms to the first batch in the middle of 10⁹ samples", median("value", "10^9"), most=50),
        target(
            "µs per sample after that, looked up one by one on one thread, 10⁹ samples", median("us_per_sample", "10^9")
        ),
        target("MB of memory for the plan of 10⁹ samples", grown and grown / 1e6),
        target("bytes of index on disk per tar member", median("index_bytes_per_member", "10^9"), most=24),
    ]
