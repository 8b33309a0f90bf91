"""What the number of samples costs: the plan of an epoch of 10³ to 10⁹ samples, entered in its middle, up to a batch's members."""

from __future__ import annotations

import json
import statistics
from typing import Any

from ..measure import Answer, Contender, curve, execute, rows, take_turns, target
from ..place import Place
from .jpeg_training import SAMPLES_PER_SHARD

TITLE = "Number of samples: from nothing to the first batch, in the middle of a shuffled epoch (simulated index)"
NEED_BYTES = 1 << 30

EXPONENTS = range(3, 10)
SIZES = {f"10^{exponent}": 10**exponent for exponent in EXPONENTS}
# Beyond, a list of all numbers takes more than this machine's memory, at 8 bytes in torch's tensor and some 40 in Python's list.
BYTES_PER_NUMBER = 48


def run(place: Place) -> Answer:
    shard = place.photos(1, place.scaled(SAMPLES_PER_SHARD, 64))[0]
    log = place.logs / "dataset_size.log"
    runs: list[Answer] = []
    commands: dict[str, list[str]] = {}
    for case, samples in SIZES.items():
        ours = [place.program("samples"), f"--samples={samples}", str(shard)]
        torch = [*place.peer("torch_sampler"), json.dumps({"samples": samples, "batch_size": 256})]
        commands |= {f"forebay, {case}": ours, f"torch RandomSampler, {case}": torch}
        contenders = [
            Contender("forebay", lambda _, command=ours: execute(command, log), ours),
            Contender("torch RandomSampler", lambda _, command=torch: execute(command, log), torch),
        ]
        runs += take_turns(contenders, place.rounds, case)
    table = rows(runs, "ms", "less")
    return {
        "unit": "ms",
        "better": "less",
        "conditions": (
            "forebay: the order of an epoch of shards of 10,000 samples each is laid out, entered in its middle, and the "
            "first batch of 256 samples is looked up, members and byte ranges included; the index of each shard is that of "
            "a real one of photographs. torch: RandomSampler, which DataLoader(shuffle=True) uses, up to its first 256 "
            "numbers; it can't be entered in the middle. Neither reads a sample. A process per run; imports are not counted."
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


def targets(runs: list[Answer]) -> list[Answer]:
    ours = [run for run in runs if run["contender"] == "forebay" and "value" in run]

    def median(name: str, case: str) -> float | None:
        found: list[Any] = [run[name] for run in ours if run["case"] == case and run.get(name) is not None]
        return statistics.median(found) if found else None

    grown = median("grown_bytes", "10^9")
    return [
        target("ms to the first batch in the middle of 10⁹ samples", median("value", "10^9"), most=50),
        target("µs per sample after that, 10⁹ samples, all on one thread", median("us_per_sample", "10^9")),
        target("MB of memory for the plan of 10⁹ samples", grown and grown / 1e6),
        target("bytes of index on disk per tar member", median("index_bytes_per_member", "10^9"), most=24),
    ]
