"""Running contenders in turn, and what their runs come to."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


class Failed(Exception):
    """A contender's process ended badly."""


def execute(command: list[str], log: Path, env: dict[str, str] | None = None, json_lines: bool = False) -> Any:
    """Runs a process to its end. Gives the JSON object of its last line (or of every line), and, under `process`, its wall and
    processor seconds and its peak RSS from start to end, as the kernel counts them."""
    with log.open("ab") as stderr:
        stderr.write(f"\n$ {shlex.join(command)}\n".encode())
        stderr.flush()
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **(env or {})}
        )
        assert process.stdout
        lines = [line for line in process.stdout if line.startswith('{"') and line.endswith("}\n")]
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise Failed(f"{Path(command[0]).name} ended with {process.returncode}: {' | '.join(tail)}")
    answers = [json.loads(line) for line in lines]
    whole = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }
    if json_lines:
        return answers
    return {**(answers[-1] if answers else {}), "process": whole}


@dataclass
class Contender:
    """Something that does a workload's work."""

    name: str
    go: Callable[[int], Answer]
    """One run, given its round; `value` is what it reached."""
    command: list[str] = field(default_factory=list)
    """As a reader may run it."""


def take_turns(contenders: list[Contender], rounds: int, case: str = "") -> list[Answer]:
    """Each contender once per round, another one first in each round. One that fails is left out from there on, and its
    error kept."""
    runs: list[Answer] = []
    out: set[str] = set()
    for round_ in range(rounds):
        first = round_ % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            if contender.name in out:
                continue
            entry: Answer = {"contender": contender.name, "case": case, "round": round_}
            try:
                entry |= contender.go(round_)
                say(
                    f"  {case + ' ' if case else ''}round {round_ + 1}/{rounds}  {contender.name}: {entry['value']:.4g}"
                )
            except (Failed, OSError, KeyError, ValueError) as error:
                entry["error"] = f"{type(error).__name__}: {error}"
                out.add(contender.name)
                say(f"  {contender.name} failed and is left out: {error}")
            runs.append(entry)
    return runs


def rows(runs: list[Answer], unit: str) -> list[Answer]:
    """One row per case and contender: minimum, median, maximum; processor seconds per unit of work; peak RSS."""
    found = []
    for case, contender in dict.fromkeys((run["case"], run["contender"]) for run in runs):
        mine = [run for run in runs if (run["case"], run["contender"]) == (case, contender)]
        good = [run for run in mine if "error" not in run]
        row: Answer = {"case": case, "contender": contender, "unit": unit, "runs": len(good)}
        row["errors"] = [run["error"] for run in mine if "error" in run]
        if good:
            values = [run["value"] for run in good]
            row |= {"min": min(values), "median": statistics.median(values), "max": max(values)}
            # Work done is rate times time.
            cpu = [run["cpu_seconds"] / (run["value"] * run["seconds"]) for run in good if "cpu_seconds" in run]
            row["cpu_seconds_per_unit"] = statistics.median(cpu) if cpu else None
            row["peak_rss_bytes"] = max(
                (run["peak_rss_bytes"] for run in good if "peak_rss_bytes" in run), default=None
            )
        found.append(row)
    return found


def ratio(table: list[Answer], ours: str, theirs: list[str], case: str = "") -> tuple[float, str] | None:
    """Our median over the best of theirs, and whose that was. None where one side has no figure."""
    medians = {row["contender"]: row["median"] for row in table if row["case"] == case and "median" in row}
    best = max((name for name in theirs if name in medians), key=lambda name: medians[name], default=None)
    if best is None or ours not in medians:
        return None
    return medians[ours] / medians[best], best


def target(what: str, reached: float | None, *, least: float | None = None, most: float | None = None) -> Answer:
    """A figure that is promised, and whether it was reached; None where it could not be measured."""
    met = None
    if reached is not None:
        met = (least is None or reached >= least) and (most is None or reached <= most)
    return {"what": what, "reached": reached, "least": least, "most": most, "met": met}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
