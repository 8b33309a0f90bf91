"""A run in one picture: what was promised and reached, loaders beside each other, and what grows with sizes."""

from __future__ import annotations

from html import escape
from typing import Any

from .. import words
from ..results import Run
from . import bars, curves, document, row_bars, table
from .svg import number

# A workload's case, as bars.
BARS = (
    ("jpeg_training", "cold S3", "JPEG training, cold S3"),
    ("jpeg_training", "NVMe", "JPEG training, NVMe"),
    ("weights", "cold", "Model weights, cold"),
    ("weights", "warm", "Model weights, warm"),
)
# A workload's first curve.
CURVES = {"cached_reads": "Cached blocks, verified", "dataset_size": "Simulated index"}


def html(run: Run) -> str:
    found = {result["workload"]: result for result in run.workloads if "failed" not in result}
    lines = [line for result in run.workloads for line in promised(result)]
    plots = []
    for name, case, title in BARS:
        if name in found and (drawn := row_bars(found[name], case)):
            unit = found[name]["unit"]
            plots.append(bars.plot(f"bars:{name}:{case}", f"{title}: {unit} by contender", {"": drawn}, unit))
    for name, title in CURVES.items():
        if found.get(name, {}).get("curves"):
            curve = found[name]["curves"][0]
            named = {**curve, "title": f"{title}: {curve['title']}"}
            plots.append(curves.plot(f"curve:{name}", named, "partial" in found[name]))
    machine = run.machine
    about = f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}"
    warned = "".join(f"<p class=warning>{escape(line)}</p>" for line in words.warnings(run))
    return document(
        f"Forebay's benchmarks, {run.name}",
        f"<h1>Forebay’s benchmarks</h1><p class=soft>Run <code>{escape(run.name)}</code>: {escape(about)}. Bars and points are "
        "medians; whiskers reach from the smallest to the largest of the runs, which are the dots.</p>"
        f"{warned}<div class=overview><section>{table(['workload', 'figure', 'reached', 'wanted', ''], lines, {2, 3})}</section>"
        f"{''.join(f'<section>{plot}</section>' for plot in plots)}</div>",
        kind="wide",
    )


def promised(result: dict[str, Any]) -> list[list[str]]:
    """A line for each promise of a workload; of one that is made for several cases, the one that is furthest from being met."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for target in result["targets"]:
        if words.wanted(target):
            kinds.setdefault(target["what"].partition(", ")[0], []).append(target)
    lines = []
    for what, targets in kinds.items():
        worst = min(targets, key=margin)
        name = worst["what"] if len(targets) == 1 else f"{what}, the worst of {len(targets)}: {_case(worst, what)}"
        reached = "not measured" if worst["reached"] is None else number(worst["reached"])
        lines.append([escape(result["workload"]), escape(name), reached, words.wanted(worst), words.verdict(worst)])
    if "failed" in result:
        lines.append([escape(result["workload"]), escape(result["failed"]), "not measured", "", words.FAILED])
    return lines


def margin(target: dict[str, Any]) -> float:
    """How far a figure is on the right side of its bound, as a part of it; what was not measured is furthest on the wrong one."""
    reached, least, most = target["reached"], target["least"], target["most"]
    if reached is None:
        return float("-inf")
    return float(reached / least - 1 if least is not None else 1 - reached / most)


def _case(target: dict[str, Any], what: str) -> str:
    return str(target["what"]).removeprefix(f"{what}, ")
