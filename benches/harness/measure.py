"""Running contenders in turn, and what their runs come to."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .child import LOOK_SECONDS, status
from .install import refused

Answer = dict[str, Any]

# No contender takes a tenth of it: one that hangs doesn't hold up the others for ever.
LONGEST_SECONDS = 1800.0

stopped = threading.Event()
"""Set when the user interrupts: no more turns are taken, and what there is is written as partial."""


class Interrupts:
    """SIGINT and SIGTERM as KeyboardInterrupt; one that arrives while a process is being started waits until there is somebody to
    end it."""

    starting = waiting = False

    @classmethod
    def arrive(cls, *_: Any) -> None:
        if cls.starting:
            cls.waiting = True
        else:
            raise KeyboardInterrupt

    @classmethod
    def started(cls) -> None:
        cls.starting = False
        if cls.waiting:
            cls.waiting = False
            raise KeyboardInterrupt


class Failed(Exception):
    """A contender's process ended badly."""


class LeftOut(Exception):
    """Something that can't be measured here, and why; no failure of the contender's."""


def needs(package: str) -> None:
    """Raises Failed where the environment could not have this package, with the reason."""
    if why := refused(package):
        raise Failed(f"{package} does not install: {why}")


@contextmanager
def running(
    command: list[str], log: Path, env: dict[str, str] | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, which ends with the block, and with it all that it has started. What it says on standard
    error, and on standard output unless `stdout` says otherwise, goes into the log."""
    with log.open("ab") as said:
        said.write(f"\n$ {shlex.join(command)}\n".encode())
        said.flush()
        Interrupts.starting = True
        try:
            process = subprocess.Popen(
                command,
                stdout=said if stdout is None else stdout,
                stderr=said,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except BaseException:
            Interrupts.started()
            raise
    try:
        Interrupts.started()
        yield process
    finally:
        kill_group(process.pid)
        if process.returncode is None:
            process.wait()


def execute(
    command: list[str],
    log: Path,
    env: dict[str, str] | None = None,
    each: Callable[[Answer], None] | None = None,
    longest: float = LONGEST_SECONDS,
) -> Answer:
    """Runs a process to its end. Gives the JSON object of its last line, and, under `process`, its wall and processor seconds and
    its peak RSS from start to end. `each` gets the object of every line, as it comes."""
    answer: Answer = {}
    start = time.perf_counter()
    with running(command, log, env, subprocess.PIPE) as process:
        late = threading.Timer(longest, kill_group, [process.pid])
        peak = Peak(process.pid)
        try:
            late.start()
            peak.start()
            assert process.stdout
            with process.stdout:
                for line in process.stdout:
                    if line.startswith('{"') and line.endswith("}\n"):
                        answer = json.loads(line)
                        if each:
                            each(answer)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            late.cancel()
            peak.ended.set()
    seconds = time.perf_counter() - start
    if seconds >= longest:
        raise Failed(f"{Path(command[0]).name} was ended after {longest:.0f} s")
    if process.returncode:
        raise Failed(f"{Path(command[0]).name} ended with {process.returncode}: {last_lines(log)}")
    whole = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": peak.bytes,
    }
    return {**answer, "process": whole}


class Peak(threading.Thread):
    """The peak RSS of a process, as it was last seen. The kernel's own account at the end can't be taken: it begins with the peak
    of the process that started it, which is this one."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.bytes, self.ended = pid, 0, threading.Event()

    def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, status("VmHWM", self.pid))
            if self.ended.wait(LOOK_SECONDS):
                return


def kill_group(pid: int) -> None:
    """Ends a process and those it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def last_lines(log: Path) -> str:
    """What a process said last."""
    said = log.read_text(errors="replace").rpartition("\n$ ")[2].strip().splitlines()[1:]
    return " | ".join(said[-3:]) or "it said nothing"


@dataclass
class Contender:
    """Something that does a workload's work."""

    name: str
    go: Callable[[int], Answer]
    """One run, given its round; `value` is what it reached."""
    command: list[str] = field(default_factory=list)
    """As a reader may run it."""
    rounds: int | None = None
    """The most that it takes part in: fewer than the others where nothing is promised over it."""


def program(name: str, command: list[str], log: Path, check: Callable[[Answer], Answer] | None = None) -> Contender:
    """A contender whose runs are one command, which says itself what it reached; `check` refuses answers."""

    def go(_: int) -> Answer:
        answer = execute(command, log)
        return check(answer) if check else answer

    return Contender(name, go, command)


def sections(parts: Mapping[str, Callable[[], list[Answer]]]) -> list[Answer]:
    """The runs of a workload's parts, each under its case, one after the other. One that can't begin, for want of a server or a
    file, is an error of Forebay's in its case, and the others go on; an interrupt ends them. What was measured before is kept."""
    runs: list[Answer] = []
    for case, part in parts.items():
        if stopped.is_set():
            break
        try:
            runs += part()
        except KeyboardInterrupt:
            stopped.set()
        except (Failed, OSError, RuntimeError) as error:
            say(f"  {case} failed: {error}")
            said = f"{type(error).__name__}: {error}"
            runs.append({"contender": "forebay", "case": case, "round": 0, "error": said})
    return runs


def take_turns(contenders: list[Contender], rounds: int, case: str = "") -> list[Answer]:
    """Each contender once per round, another one first in each round. One that fails, or can't run here, is left out from there
    on, and the reason kept. An interrupt ends the turns; the runs so far are given."""
    runs: list[Answer] = []
    out: set[str] = set()
    turns = [
        (round_, contender)
        for round_ in range(rounds)
        for contender in contenders[round_ % len(contenders) :] + contenders[: round_ % len(contenders)]
    ]
    for round_, contender in turns:
        if stopped.is_set():
            break
        if contender.name in out or (contender.rounds is not None and round_ >= contender.rounds):
            continue
        entry: Answer = {"contender": contender.name, "case": case, "round": round_}
        try:
            entry |= contender.go(round_)
            say(f"  {case + ' ' if case else ''}round {round_ + 1}/{rounds}  {contender.name}: {entry['value']:.4g}")
        except KeyboardInterrupt:
            stopped.set()
            break
        except LeftOut as reason:
            entry["left_out"] = str(reason)
            out.add(contender.name)
            say(f"  {contender.name} is left out: {reason}")
        except (Failed, OSError, KeyError, ValueError) as error:
            entry["error"] = f"{type(error).__name__}: {error}"
            out.add(contender.name)
            say(f"  {contender.name} failed and is left out: {error}")
        runs.append(entry)
    return runs


def collect(command: list[str], log: Path, unit: str, case: Callable[[Answer], str]) -> list[Answer]:
    """The runs of a program that has contenders take turns itself, and prints an object for each run; `case` tells a run's. An
    interrupt ends it; the runs so far are given."""
    runs: list[Answer] = []

    def note(entry: Answer) -> None:
        runs.append({**entry, "case": case(entry)})
        named = " ".join(filter(None, [runs[-1]["case"], f"round {entry['round'] + 1}"]))
        say(f"  {named}  {entry['contender']}: {entry['value']:.4g} {unit}")

    try:
        execute(command, log, each=note)
    except KeyboardInterrupt:
        stopped.set()
    return runs


def left_out(contender: str, cases: Iterable[str], why: str) -> list[Answer]:
    """In place of the runs of a contender that can't be measured here."""
    return [{"contender": contender, "case": case, "round": 0, "left_out": why} for case in cases]


def rows(runs: list[Answer], unit: str, better: str = "more") -> list[Answer]:
    """One row per case and contender: minimum, median, maximum; processor seconds per unit of work; peak RSS. Where less is
    better, `value` is no rate, and processor seconds are those of a run."""
    found = []
    for case, contender in dict.fromkeys((run["case"], run["contender"]) for run in runs):
        mine = [run for run in runs if (run["case"], run["contender"]) == (case, contender)]
        good = [run for run in mine if "value" in run]
        row: Answer = {"case": case, "contender": contender, "unit": unit, "runs": len(good)}
        row["errors"] = [run["error"] for run in mine if "error" in run]
        for run in mine:
            if "left_out" in run:
                row["left_out"] = run["left_out"]
        if good:
            row |= spread([run["value"] for run in good])
            # Work done is rate times time.
            cpu = [
                run["cpu_seconds"] / (run["value"] * run["seconds"] if better == "more" else 1)
                for run in good
                if "cpu_seconds" in run
            ]
            row["cpu_seconds_per_unit"] = statistics.median(cpu) if cpu else None
            row["peak_rss_bytes"] = max(
                (run["peak_rss_bytes"] for run in good if "peak_rss_bytes" in run), default=None
            )
            first = [run["first_batch_seconds"] for run in good if "first_batch_seconds" in run]
            if first:
                row["first_batch_seconds"] = spread(first)
        found.append(row)
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def curve(table: list[Answer], at: Mapping[str, float], *, title: str, x: str, y: str, entry: str = "median") -> Answer:
    """How an entry of the rows (their figure, or `peak_rss_bytes`, `cpu_seconds_per_unit`) changes with a size: `at` gives each
    case's. `x` and `y` name the axes, with their units; sizes in bytes are shown as such where `x` begins with "bytes"."""
    lines: dict[str, list[Answer]] = {}
    failed: dict[str, str] = {}
    for row in table:
        if row["case"] not in at:
            continue
        points = lines.setdefault(row["contender"], [])
        if row.get(entry) is not None:
            ends = (row["min"], row["max"]) if entry == "median" else (row[entry], row[entry])
            points.append({"x": at[row["case"]], "min": ends[0], "median": row[entry], "max": ends[1]})
        if row["errors"]:
            failed[row["contender"]] = row["errors"][0]
    return {"title": title, "x": x, "y": y, "lines": lines, "failed": failed}


def ratio(table: list[Answer], ours: str, theirs: list[str], case: str = "") -> tuple[float, str] | None:
    """Our median over the best of theirs, and whose that was. None where one side has no figure."""
    medians = {row["contender"]: row["median"] for row in table if row["case"] == case and "median" in row}
    best = max((name for name in theirs if name in medians), key=lambda name: medians[name], default=None)
    if best is None or ours not in medians:
        return None
    return medians[ours] / medians[best], best


# What a process may take over host_memory_limit: Python, the packages that it imports, threads, what libraries hold.
ALLOWANCE_BYTES = 300_000_000


def peaks(table: list[Answer], limit_bytes: int) -> list[Answer]:
    """Peak RSS of Forebay's contenders over their host_memory_limit, case by case."""
    ours = [row for row in table if row["contender"] == "forebay"]
    return [
        target(
            ", ".join(filter(None, ("MB of peak RSS over host_memory_limit", row["case"]))),
            None if row.get("peak_rss_bytes") is None else (row["peak_rss_bytes"] - limit_bytes) / 1e6,
            most=ALLOWANCE_BYTES / 1e6,
        )
        for row in ours
    ]


def target(what: str, reached: float | None, *, least: float | None = None, most: float | None = None) -> Answer:
    """A figure that is promised, and whether it was reached; None where it could not be measured."""
    met = None
    if reached is not None:
        met = (least is None or reached >= least) and (most is None or reached <= most)
    return {"what": what, "reached": reached, "least": least, "most": most, "met": met}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
