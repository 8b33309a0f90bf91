"""`make bench-check OLD=FOLDER NEW=FOLDER`: whether a ratio of Forebay's over a peer or a limit got worse between two runs, by
more than the noise that they have measured themselves.

python -m harness.compare OLD NEW

Both sides of a ratio come from the same run, so that a slower disk or machine slows both. In each round there is one ratio; half
of their range is a run's noise. What is allowed is the sum of both runs' noise: for five rounds of normally distributed ratios,
about three standard errors of the difference of two medians.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import results, schema
from .ratios import by_round, is_ours, limit_of, noise
from .report import table

# Which machine's figures they are; ratios over these are still compared, and the difference said.
MACHINE = ("processor", "cores", "memory_bytes", "kernel", "disk")


@dataclass(frozen=True)
class Verdict:
    """What became of one figure."""

    workload: str
    figure: str
    old: float | None
    new: float | None
    allowed: float | None
    """How much worse it may be, as a part; None where nothing was measured of it."""
    text: str
    worse: bool = False

    def line(self) -> list[str]:
        change = "" if not self.old or self.new is None else f"{100 * (self.new / self.old - 1):+.1f} %"
        allowed = "" if self.allowed is None else f"± {100 * self.allowed:.1f} %"
        shown = ["" if value is None else f"{value:.3g}" for value in (self.old, self.new)]
        return [self.workload, self.figure, *shown, change, allowed, f"**{self.text}**" if self.worse else self.text]


def compare(old: results.Run, new: results.Run) -> list[Verdict]:
    """Every figure of the old run, and how the new one has it."""
    found: list[Verdict] = []
    there = {result["workload"]: result for result in new.workloads}
    for before in old.workloads:
        name = before["workload"]
        after = there.get(name)
        if after is None:
            found.append(Verdict(name, "the workload", None, None, None, "missing in NEW", worse=True))
        elif "failed" in before:
            found.append(Verdict(name, "the workload", None, None, None, "failed in OLD: not compared"))
        elif "failed" in after:
            found.append(
                Verdict(name, "the workload", None, None, None, f"failed in NEW: {after['failed']}", worse=True)
            )
        else:
            found += compare_ours(before, after)
            found += compare_ratios(before, after)
            found += compare_targets(before, after)
    return found


def compare_ours(before: dict[str, Any], after: dict[str, Any]) -> list[Verdict]:
    """Contenders of Forebay's own that OLD has figures of, and that failed in NEW, be it in its last round."""
    found = []
    rows = by_contender(after)
    for row in before["rows"]:
        if not is_ours(row["contender"]) or not row["runs"]:
            continue
        now = rows.get((row["case"], row["contender"]))
        why = (
            "missing"
            if now is None
            else "; ".join(now["errors"]) or ("" if now["runs"] else now.get("left_out", "no runs"))
        )
        if why:
            figure = f"{row['case'] + ': ' if row['case'] else ''}{row['contender']}"
            found.append(Verdict(before["workload"], figure, None, None, None, f"failed in NEW: {why}", worse=True))
    return found


def by_contender(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["case"], row["contender"]): row for row in result["rows"]}


def compare_ratios(before: dict[str, Any], after: dict[str, Any]) -> list[Verdict]:
    found = []
    rows = by_contender(after)
    for case, ours in [(row["case"], row["contender"]) for row in before["rows"] if is_ours(row["contender"])]:
        # Without a figure of Forebay's own there is no ratio, which is said already.
        if not rows.get((case, ours), {}).get("runs"):
            continue
        for theirs in [row["contender"] for row in before["rows"] if row["case"] == case]:
            if is_ours(theirs):
                continue
            figure = f"{case + ': ' if case else ''}{ours} over {theirs}"
            old, new = by_round(before, case, ours, theirs), by_round(after, case, ours, theirs)
            if old and not new:
                found.append(gone(before["workload"], figure, statistics.median(old), rows.get((case, theirs)), theirs))
            elif old:
                found.append(judge(before["workload"], figure, old, new))
    return found


def gone(name: str, figure: str, old: float, row: dict[str, Any] | None, theirs: str) -> Verdict:
    """A ratio that NEW doesn't have though Forebay has a figure: a peer without one is no fault of Forebay's."""
    if row is None or not row["runs"]:
        why = "missing" if row is None else row.get("left_out") or "; ".join(row["errors"])
        return Verdict(name, figure, old, None, None, f"{theirs} has no figure in NEW: {why}")
    return Verdict(name, figure, old, None, None, "no round in NEW has both", worse=True)


def judge(name: str, figure: str, old: list[float], new: list[float]) -> Verdict:
    before, after = statistics.median(old), statistics.median(new)
    spreads = noise(old), noise(new)
    if spreads[0] is None or spreads[1] is None:
        return Verdict(name, figure, before, after, None, "not judged: a single round measures no noise")
    allowed = spreads[0] + spreads[1]
    if after < before * (1 - allowed):
        return Verdict(name, figure, before, after, allowed, "worse", worse=True)
    text = "better" if after > before * (1 + allowed) else "same within the noise"
    return Verdict(name, figure, before, after, allowed, text)


def noise_over_limit(before: dict[str, Any], after: dict[str, Any], what: str) -> float:
    """Both runs' noise of Forebay over the limit, in the case that a target's text ends with; 0 where there is no limit."""
    cases = [row["case"] for row in before["rows"] if what.endswith(row["case"])]
    case = max(cases, key=len, default="")
    ours = next((row["contender"] for row in before["rows"] if row["case"] == case and is_ours(row["contender"])), None)
    limit = limit_of(before, case)
    if ours is None or limit is None:
        return 0.0
    return sum(noise(by_round(result, case, ours, limit)) or 0.0 for result in (before, after))


def compare_targets(before: dict[str, Any], after: dict[str, Any]) -> list[Verdict]:
    """Targets that were met and aren't: a change within the noise of Forebay over the limit is none."""
    found = []
    there = {target["what"]: target for target in after["targets"]}
    for target in before["targets"]:
        if not target["met"] or (target["least"] is None and target["most"] is None):
            continue
        now = there.get(target["what"])
        figure, old = f"target: {target['what']}", target["reached"]
        if now is None or now["reached"] is None:
            found.append(Verdict(before["workload"], figure, old, None, None, "met in OLD, not measured in NEW"))
        elif not now["met"]:
            allowed = noise_over_limit(before, after, target["what"])
            change = abs(now["reached"] - old) / abs(old) if old else float("inf")
            text = "met in OLD, missed in NEW" + (", within the noise" if change <= allowed else "")
            found.append(
                Verdict(before["workload"], figure, old, now["reached"], allowed, text, worse=change > allowed)
            )
    return found


def remarks(old: results.Run, new: results.Run) -> list[str]:
    """What makes two runs hard to compare."""
    found = []
    for name in MACHINE:
        if old.machine[name] != new.machine[name]:
            found.append(f"different machine: {name} was {old.machine[name]} and is {new.machine[name]}")
    for key, run in (("OLD", old), ("NEW", new)):
        if any(result["small"] for result in run.workloads):
            found.append(f"{key} is a small run, whose figures mean little")
        if not run.complete:
            found.append(f"{key} is a partial run")
    before = {result["workload"] for result in old.workloads}
    found += [f"only in NEW: {result['workload']}" for result in new.workloads if result["workload"] not in before]
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        raise SystemExit("make bench-check OLD=FOLDER NEW=FOLDER, two folders of benches/results")
    try:
        old, new = (results.read(Path(folder)) for folder in arguments)
    except schema.Invalid as error:
        raise SystemExit(str(error)) from error
    for remark in remarks(old, new):
        print(remark)
    found = compare(old, new)
    print(table(["workload", "figure", "OLD", "NEW", "change", "noise", "verdict"], [one.line() for one in found]))
    worse = [one for one in found if one.worse]
    compared = sum(one.allowed is not None for one in found)
    print(f"\n{len(worse)} worse; {compared} of {len(found)} judged" if found else "\nOLD has no workloads")
    return 1 if worse or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
