"""What both reports, the tables and the page, say in the same words."""

from __future__ import annotations

import re
import shlex
from typing import Any

from .results import Run

Result = dict[str, Any]


def facts(run: Run) -> dict[str, str]:
    """What a reader needs to know of the machine and of the run."""
    machine = run.machine
    found = {
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB",
        "system": f"{machine['system']}, kernel {machine['kernel']}",
        "disk": ", ".join(f"{name} {value}" for name, value in machine["disk"].items()),
        "load before": ", ".join(f"{load:.2f}" for load in machine["load"]),
        "commit": machine["commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
    }
    if "run" in machine:
        settings = machine["run"]
        found["run"] = f"{settings['scale']}, {settings['rounds']} rounds, {settings['threads']} threads"
    times = ", ".join(f"{result['workload']} {duration(result)}" for result in run.workloads)
    if times:
        found["time"] = f"{sum(result['wall_seconds'] for result in run.workloads) / 60:.1f} minutes: {times}"
    return found


def duration(result: Result) -> str:
    return f"{result['wall_seconds']:.0f} s"


def warnings(run: Run) -> list[str]:
    """What a reader must know before looking at any figure."""
    found = []
    if any(result["small"] for result in run.workloads):
        found.append("A small run: it shows that everything works; its figures mean little.")
    if run.missing:
        found.append(f"A partial run: it ended before {', '.join(run.missing)}.")
    found += [f"Partial: {result['title']}: {result['partial']}." for result in run.workloads if "partial" in result]
    return found


def reached(target: Result) -> str:
    return "not measured" if target["reached"] is None else f"{target['reached']:.2f}"


# As the page has them.
VERDICTS = {True: "<span class=yes>✓ met</span>", False: "<span class=no>✗ missed</span>", None: "not measured"}
FAILED = "<span class=no>✗ failed</span>"


def verdict(target: Result) -> str:
    """Whether a figure is within its bounds, in HTML."""
    return VERDICTS[target["met"]]


def wanted(target: Result) -> str:
    """The bounds; nothing where nothing is promised."""
    bounds = [f"≥ {target['least']:g}"] if target["least"] is not None else []
    bounds += [f"≤ {target['most']:g}"] if target["most"] is not None else []
    return " ".join(bounds)


def heads(result: Result) -> list[str]:
    """Of a workload's table of rows."""
    unit = result["unit"]
    work = "run" if result.get("better") == "less" else unit.removesuffix("/s").removesuffix("s")
    return [
        "case",
        "contender",
        f"min {unit}",
        f"median {unit}",
        f"max {unit}",
        f"CPU ms / {work}",
        "peak RSS MB",
        "runs",
        "",
    ]


def state(row: Result, result: Result | None = None) -> str:
    """What is to be said of a row besides its figures; with a result, also that this is partial."""
    partial = ["partial"] if result and "partial" in result else []
    if "left_out" in row:
        return "; ".join([f"left out: {row['left_out']}", *partial])
    if row["errors"]:
        after = f" after {row['runs']} runs" if row["runs"] else ""
        return "; ".join([f"failed{after}: {row['errors'][0]}", *partial])
    return "".join(partial)


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}"


def command_line(command: list[str]) -> str:
    """As a shell takes it; the home folder stays a tilde outside of quotes."""
    return re.sub(r"'(~/[\w@%+=:,./-]*)'", r"\1", shlex.join(command))
