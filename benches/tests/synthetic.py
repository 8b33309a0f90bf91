"""Folders of results with figures that a test chooses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from harness import schema
from harness.measure import curve, rows, target

MACHINE: dict[str, Any] = {
    "name": "x86_64-2cores",
    "processor": "A processor",
    "cores": 2,
    "memory_bytes": 16 << 30,
    "kernel": "6.1",
    "system": "A system",
    "disk": {"filesystem": "ext4", "device": "/dev/vda"},
    "load": [0.1, 0.2, 0.3],
    "versions": {"fio": "fio-3.33", "numpy": "2.4.6"},
    "commit": "0123456789ab",
    "builds": {"crops": "abc"},
    "run": {"scale": "usual", "rounds": 5, "threads": 2, "workloads": ["reads"]},
}

# Five rounds of the same work, with a tenth between the slowest and the fastest.
ROUNDS = (0.98, 1.03, 1.0, 0.95, 1.05)


def runs(contender: str, values: list[float], case: str = "", **more: Any) -> list[dict[str, Any]]:
    entry = {"contender": contender, "case": case, "seconds": 2.0, "cpu_seconds": 3.0, "peak_rss_bytes": 100 << 20}
    return [{**entry, "round": at, "value": value, **more} for at, value in enumerate(values)]


def around(middle: float) -> list[float]:
    return [middle * part for part in ROUNDS]


def workload(name: str, found: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "schema": schema.VERSION,
        "workload": name,
        "title": f"The workload {name}",
        "small": False,
        "wall_seconds": 12.5,
        "rounds": 5,
        "conditions": "As a test has it.",
        "settings": {},
        "commands": {contender: ["run", contender] for contender in dict.fromkeys(run["contender"] for run in found)},
        "unit": "images/s",
        "runs": found,
        "rows": rows(found, "images/s", more.get("better", "more")),
        "targets": [],
        **more,
    }


def reads(ours: float = 900.0, theirs: float = 450.0, **more: Any) -> dict[str, Any]:
    found = [*runs("forebay", around(ours)), *runs("a peer", [theirs] * 5), *runs("limit: alone", [1000.0] * 5)]
    return workload("reads", found, **more)


def folder(path: Path, *workloads: dict[str, Any], **machine: Any) -> Path:
    path.mkdir(parents=True)
    planned = {**MACHINE["run"], "workloads": [result["workload"] for result in workloads]}
    (path / "machine.json").write_text(json.dumps({**MACHINE, "run": planned, **machine}))
    for result in workloads:
        (path / f"{result['workload']}.json").write_text(json.dumps(result))
    return path


def everything(path: Path) -> Path:
    """One of each plot, and of each thing that can go wrong."""
    shutil.rmtree(path, ignore_errors=True)
    broken = {
        "contender": "a broken peer",
        "case": "",
        "round": 0,
        "error": "Failed: <script>alert('no')</script> & more",
    }
    late = {"contender": "a peer that dies late", "case": "", "round": 3, "error": "Failed: killed by signal 9"}
    cold = {"contender": "a cold one", "case": "", "round": 0, "left_out": "dropping the page cache needs root"}
    training = workload(
        "training",
        [
            *runs("forebay", around(1900.0), first_batch_seconds=0.21),
            *runs("a peer with a long name, as they have", around(930.0), first_batch_seconds=1.9),
            *runs("limit: decode + resize alone", around(2100.0)),
            *runs("a peer that dies late", [700.0, 720.0, 690.0]),
            late,
            broken,
            cold,
        ],
        tiers={"": "NVMe"},
        page_cache="warm",
        targets=[target("images/s over a peer", 2.04, least=2.0), target("images/s over alone", 0.8, least=0.85)],
        series={"forebay": [170_000_000 + 1_000_000 * at for at in range(12)]},
    )
    sizes = {"4 KiB": 4 << 10, "128 KiB": 128 << 10, "4 MiB": 4 << 20}
    found = [
        run
        for at, case in enumerate(sizes)
        for run in [*runs("forebay", around(0.4 + 0.8 * at), case), *runs("fio", around(0.45 + 0.75 * at), case)]
    ]
    blocks = workload("blocks", found, limits=dict.fromkeys(sizes, "fio"), tiers=dict.fromkeys(sizes, "NVMe"))
    blocks["curves"] = [curve(blocks["rows"], sizes, title="Rate against read size", x="bytes per read", y="GB/s")]
    samples = {f"{10**power}": float(10**power) for power in range(3, 10)}
    found = [
        run
        for at, case in enumerate(samples)
        for run in [*runs("forebay", around(0.05 + 0.002 * at), case), *runs("a peer", around(0.1 * 4**at), case)]
    ]
    found.append({"contender": "another peer", "case": "1000", "round": 0, "error": "MemoryError: too many samples"})
    start = workload("start", found, better="less", unit="s", partial="interrupted: fewer runs than planned")
    start["curves"] = [curve(start["rows"], samples, title="Start against samples", x="samples", y="seconds")]
    failed = {name: training[name] for name in ("schema", "workload", "title", "small", "wall_seconds")}
    failed |= {"workload": "broken", "title": "The workload broken", "failed": "OSError: no room", "targets": []}
    made = folder(path, training, blocks, start, failed)
    (made / "training.trace.json").write_text(json.dumps({"traceEvents": trace()}))
    (made / "training.flame.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return made


def trace() -> list[dict[str, Any]]:
    """Two threads that decode in small steps, and one that reads in large ones; fetches, twenty at once, and batches, two at
    once; times are microseconds."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": at, "args": {"name": name}}
        for at, name in enumerate(("read", "decode 0", "decode 1"))
    ]
    for at in range(20):
        events += [
            {"ph": "B", "name": "read", "pid": 1, "tid": 0, "ts": 100_000 * at},
            {"ph": "E", "name": "read", "pid": 1, "tid": 0, "ts": 100_000 * at + 60_000},
        ]
    for at in range(2000):
        for thread in (1, 2):
            start: dict[str, Any] = {"ph": "X", "pid": 1, "tid": thread, "ts": 1000 * at + 300 * thread}
            events.append({**start, "name": "decode", "dur": 600})
            events.append({**start, "name": "resize", "ts": start["ts"] + 600, "dur": 250})
    for number in range(100):
        for phase, at in (("b", 18_000 * number), ("e", 18_000 * number + 355_000)):
            events.append({"ph": phase, "cat": "fetch", "name": "fetch", "id": number, "pid": 1, "tid": 1, "ts": at})
    for number in range(8):
        for phase, at in (("b", 220_000 * number), ("e", 220_000 * number + 400_000)):
            events.append({"ph": phase, "cat": "batch", "name": "batch", "id": number, "pid": 1, "tid": 1, "ts": at})
    return events
