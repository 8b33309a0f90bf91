"""The reports of a folder of results: Markdown tables, which BENCHMARKS.md shows too, and the HTML page.

python -m harness.report FOLDER     writes both anew
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import page, results, schema, words
from .results import Run

BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


def write(folder: Path) -> str:
    """Writes report.md and report.html into a folder of results; gives the tables."""
    run = results.read(folder)
    text = markdown(run)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(page.html(run))
    return text


def markdown(run: Run) -> str:
    """Everything that BENCHMARKS.md shows of a run."""
    parts = [f"Run `{run.name}`.", "\n".join(f"- {name}: {value}" for name, value in words.facts(run).items())]
    parts += [f"**{line}**" for line in words.warnings(run)]
    parts.append(targets(run.workloads))
    parts += [workload(result) for result in run.workloads]
    return "\n\n".join(parts) + "\n"


def include(page: Path, text: str) -> None:
    """Puts the tables between the page's markers."""
    old = page.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def targets(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        for target in result["targets"]:
            wanted = words.wanted(target)
            verdict = {True: "yes", False: "**no**", None: "not measured"}[target["met"]] if wanted else "—"
            lines.append([result["workload"], target["what"], words.reached(target), wanted or "—", verdict])
        if "failed" in result:
            lines.append([result["workload"], "the workload", f"failed: {result['failed']}", "—", "**no**"])
    return table(["workload", "figure", "reached", "wanted", "met"], lines)


def workload(result: dict[str, Any]) -> str:
    head = f"### {result['title']}"
    if "failed" in result:
        return f"{head}\n\nFailed: {result['failed']}"
    lines = []
    for row in result["rows"]:
        figures = [f"{row[name]:.4g}" if name in row else "" for name in ("min", "median", "max")]
        cpu = row.get("cpu_seconds_per_unit")
        lines.append(
            [
                row["case"],
                row["contender"],
                figures[0],
                f"**{figures[1]}**" if figures[1] else "",
                figures[2],
                "" if cpu is None else f"{cpu * 1e3:.3g}",
                words.megabytes(row.get("peak_rss_bytes")),
                str(row["runs"]),
                words.state(row, result),
            ]
        )
    parts = [head, result["conditions"]]
    if "page_cache" in result:
        parts.append(f"Page cache: {result['page_cache']}")
    parts += [table(words.heads(result), lines), f"Took {words.duration(result)} in all."]
    for name, values in (result.get("series") or {}).items():
        if values:
            parts.append(f"{name}: VmRSS after each epoch, MB: {', '.join(words.megabytes(value) for value in values)}")
    commands = "\n".join(f"{name}: {shorten(command)}" for name, command in result["commands"].items())
    parts.append(f"<details><summary>Commands</summary>\n\n```text\n{commands}\n```\n\n</details>")
    return "\n\n".join(parts)


def shorten(command: list[str], most: int = 600) -> str:
    """A command line on one line of the page; the whole one is in the JSON."""
    line = words.command_line(command)
    return line if len(line) <= most else f"{line[:most]} …"


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table; a column that nothing stands in is left out."""
    listed = list(lines)
    kept = [at for at in range(len(heads)) if not listed or any(line[at] for line in listed)]
    escape = [[line[at].replace("|", "\\|") for at in kept] for line in [heads, *listed]]
    rows = [f"| {' | '.join(line)} |" for line in escape]
    return "\n".join([rows[0], f"|{'---|' * len(kept)}", *rows[1:]])


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        write(Path(sys.argv[1]))
    except schema.Invalid as error:
        raise SystemExit(str(error)) from error
    print(Path(sys.argv[1]) / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
