"""The report as one HTML file: text, tables and plots, with nothing from outside and no scripts."""

from __future__ import annotations

import statistics
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from .. import words
from ..ratios import by_round, is_ours, limit_of
from ..results import Run
from . import bars, curves, timeline
from .bars import Bar
from .svg import number

STYLE = Path(__file__).with_name("style.css")
# Whatever came into the file, a browser asks nobody for anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(run: Run) -> str:
    parts = [head(run), targets(run.workloads)]
    parts += [plot for plot in (shares(run.workloads), first_batches(run.workloads)) if plot]
    parts += [workload(result, run.folder) for result in run.workloads]
    return document(f"Forebay's benchmarks, {run.name}", chr(10).join(parts))


def document(title: str, body: str, kind: str = "") -> str:
    """A whole file; `kind` is a class of its body."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<style>\n{STYLE.read_text()}</style></head>\n<body class="{kind}">{body}</body></html>\n'
    )


def head(run: Run) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in words.facts(run).items())
    about = (
        "Bars and points are medians; whiskers reach from the smallest to the largest of the runs, which are the dots. "
        "Everything was measured in the same run, contenders in turn with each other."
    )
    return (
        f"<h1>Forebay’s benchmarks</h1><p class=soft>Run <code>{escape(run.name)}</code></p>"
        f"{''.join(f'<p class=warning>{escape(line)}</p>' for line in words.warnings(run))}"
        f"<p>{about}</p><details><summary>Machine, versions and times</summary><dl>{listed}</dl></details>"
    )


def targets(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        for target in result["targets"]:
            wanted = words.wanted(target)
            part = " <span class=no>partial</span>" if "partial" in result else ""
            what = f'<a href="#{result["workload"]}">{escape(result["workload"])}</a>{part}'
            met = words.verdict(target) if wanted else "—"
            lines.append([what, escape(target["what"]), words.reached(target), wanted or "—", met])
        if "failed" in result:
            failed = f"failed: {escape(result['failed'])}"
            lines.append([escape(result["workload"]), failed, "not measured", "—", words.FAILED])
    return table(["workload", "figure", "reached", "wanted", ""], lines, numbers={2, 3})


def shares(results: list[dict[str, Any]]) -> str:
    """How near contenders come to what the machine can do, by tier."""
    groups: dict[str, list[Bar]] = {}
    for result in measured(results):
        for case in dict.fromkeys(row["case"] for row in result["rows"]):
            limit = limit_of(result, case)
            if limit is None:
                continue
            tier = result.get("tiers", {}).get(case)
            of = limit.removeprefix("limit: ")
            group = ", ".join(filter(None, [tier, result["workload"]])) + f": share of {of}"
            for row in result["rows"]:
                if row["case"] != case or row["contender"] == limit:
                    continue
                ratios = [100 * ratio for ratio in by_round(result, case, row["contender"], limit)]
                drawn = bar(row, result, ratios)
                label = ": ".join(filter(None, ["" if case == tier else case, drawn.label]))
                groups.setdefault(group, []).append(replace(drawn, label=label))
    caption = "Share of the limit in the same round, by tier"
    return bars.plot("shares", caption, groups, "% of the limit", mark=100) if groups else ""


def first_batches(results: list[dict[str, Any]]) -> str:
    groups: dict[str, list[Bar]] = {}
    for result in measured(results):
        for row in result["rows"]:
            if "first_batch_seconds" in row:
                runs = [
                    run for run in result["runs"] if (run["case"], run["contender"]) == (row["case"], row["contender"])
                ]
                seconds = [run["first_batch_seconds"] for run in runs if "first_batch_seconds" in run]
                group = " — ".join(filter(None, [result["workload"], row["case"]]))
                groups.setdefault(group, []).append(bar(row, result, seconds))
    return bars.plot("first-batch", "Time to the first batch (less is better)", groups, "seconds") if groups else ""


def measured(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in results if "failed" not in result]


def bar(row: dict[str, Any], result: dict[str, Any], values: list[float]) -> Bar:
    """A row's bar, of these values of its runs."""
    limit = row["contender"] == limit_of(result, row["case"])
    note = words.state(row)
    role = "limit" if limit else "ours" if is_ours(row["contender"]) else "peer"
    if not values:
        return Bar(row["contender"], role, note=note or "no figure", partial="partial" in result)
    return Bar(
        row["contender"],
        role,
        statistics.median(values),
        min(values),
        max(values),
        values,
        note,
        "partial" in result,
    )


def row_bars(result: dict[str, Any], case: str) -> list[Bar]:
    """A case's bars, one for each contender."""

    def values(row: dict[str, Any]) -> list[float]:
        mine = (run for run in result["runs"] if (run["case"], run["contender"]) == (case, row["contender"]))
        return [run["value"] for run in mine if "value" in run]

    return [bar(row, result, values(row)) for row in result["rows"] if row["case"] == case]


def workload(result: dict[str, Any], folder: Path) -> str:
    name = result["workload"]
    parts = [f'<h2 id="{escape(name)}">{escape(result["title"])}</h2>']
    if "failed" in result:
        return "".join([*parts, f"<p class=warning>Failed: {escape(result['failed'])}</p>"])
    if "partial" in result:
        parts.append(f"<p class=warning>Partial: {escape(result['partial'])}</p>")
    parts.append(f"<p>{escape(result['conditions'])} <span class=soft>Took {words.duration(result)} in all.</span></p>")
    if "page_cache" in result:
        parts.append(f"<p class=soft>Page cache: {escape(result['page_cache'])}</p>")
    groups = {case: row_bars(result, case) for case in dict.fromkeys(row["case"] for row in result["rows"])}
    less = " (less is better)" if result.get("better") == "less" else ""
    caption = f"{result['unit']} by contender{less}"
    if on_one_axis(groups):
        parts.append(bars.plot(f"bars:{name}", caption, groups, result["unit"]))
    else:
        for case, group in groups.items():
            parts.append(bars.plot(f"bars:{name}:{case}", f"{caption}: {case}", {"": group}, result["unit"]))
    drawn = [*result.get("curves", []), *series(result)]
    parts += [curves.plot(f"curve:{name}:{at}", curve, "partial" in result) for at, curve in enumerate(drawn)]
    if (folder / f"{name}.trace.json").exists():
        parts.append(timeline.plot(folder / f"{name}.trace.json"))
    if (folder / f"{name}.flame.svg").exists():
        parts.append(f'<p><a href="{escape(name)}.flame.svg">Flame graph</a>: where processors spend their time.</p>')
    parts.append(rows(result))
    commands = "".join(
        f"<dt>{escape(contender)}</dt><dd><code>{escape(words.command_line(command))}</code></dd>"
        for contender, command in result["commands"].items()
    )
    parts.append(f"<details><summary>Commands</summary><dl>{commands}</dl></details>")
    return "\n".join(parts)


def on_one_axis(groups: dict[str, list[Bar]]) -> bool:
    """Whether each group has a bar that is long enough to be seen beside the longest one."""
    longest = [max((bar.most for bar in group), default=0.0) for group in groups.values()]
    return min(longest) * 20 >= max(longest)


def series(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Resident memory after each epoch, as a curve."""
    lines = {
        name: [{"x": at, **dict.fromkeys(("min", "median", "max"), value / 1e6)} for at, value in enumerate(values, 1)]
        for name, values in result.get("series", {}).items()
        if values
    }
    return (
        [{"title": "Memory over epochs", "x": "epochs", "y": "resident MB", "lines": lines, "failed": {}}]
        if lines
        else []
    )


def rows(result: dict[str, Any]) -> str:
    lines = []
    for row in result["rows"]:
        figures = [number(row[name]) if name in row else "" for name in ("min", "median", "max")]
        cpu, note = row.get("cpu_seconds_per_unit"), words.state(row, result)
        lines.append(
            [
                escape(row["case"]),
                escape(row["contender"]),
                *figures,
                "" if cpu is None else number(cpu * 1e3),
                words.megabytes(row.get("peak_rss_bytes")),
                str(row["runs"]),
                f"<span class=no>{escape(note)}</span>" if note else "",
            ]
        )
    return table(words.heads(result), lines, numbers=set(range(2, 8)))


def table(heads: list[str], lines: list[list[str]], numbers: set[int]) -> str:
    """Cells are HTML; a column that nothing stands in is left out."""
    kept = [at for at in range(len(heads)) if any(line[at] for line in lines)]

    def row(cells: list[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if at in numbers else ''}>{cells[at]}</{tag}>" for at in kept)

    body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return f"<div class=scroll><table><tr>{row([escape(head) for head in heads], 'th')}</tr>{body}</table></div>"
