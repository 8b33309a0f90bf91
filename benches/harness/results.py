"""The folder of one run: begun, added to, read. Its format is described in benches/README.md and checked by `schema`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import schema

REPOSITORY = Path(__file__).resolve().parents[2]

MACHINE = "machine.json"
# What differs between two runs of the same programs on the same machine.
_PASSING = ("load",)


@dataclass(frozen=True)
class Run:
    """What a folder holds."""

    folder: Path
    machine: dict[str, Any]
    workloads: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether every workload that was to run is there, and whole."""
        return not self.missing and not any("partial" in result for result in self.workloads)

    @property
    def missing(self) -> list[str]:
        """Workloads that were to run and didn't."""
        planned = self.machine.get("run", {}).get("workloads", [])
        there = {result["workload"] for result in self.workloads}
        return [name for name in planned if name not in there]


def read(folder: Path) -> Run:
    """A folder's results, checked. Raises schema.Invalid."""
    if not (folder / MACHINE).is_file():
        raise schema.Invalid(f"{folder}: no {MACHINE}, so these are no results")
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name != MACHINE and not path.name.endswith(".trace.json"):
            found.append(_load(path))
            schema.check_workload(found[-1], str(path))
    about = _load(folder / MACHINE)
    schema.check_machine(about, str(folder / MACHINE))
    return Run(folder, about, found)


def begin(folder: Path, about: dict[str, Any], workloads: list[str], resume: bool) -> Path:
    """The folder of a run that begins: empty, or with what the same programs on the same machine finished earlier today."""
    folder.mkdir(parents=True, exist_ok=True)
    kept: list[str] = []
    if resume and (folder / MACHINE).exists():
        earlier = read(folder)
        _same(earlier.machine, about, folder)
        kept = [
            result["workload"] for result in earlier.workloads if "failed" not in result and "partial" not in result
        ]
        workloads = sorted({*earlier.machine["run"]["workloads"], *workloads})
    for path in folder.iterdir():
        if path.name.partition(".")[0] not in kept:
            path.unlink()
    about["run"]["workloads"] = workloads
    schema.check_machine(about, MACHINE)
    _write(folder / MACHINE, about)
    return folder


def add(folder: Path, result: dict[str, Any]) -> None:
    """Writes a workload's result."""
    result = {"schema": schema.VERSION, **result}
    path = folder / f"{result['workload']}.json"
    schema.check_workload(json.loads(json.dumps(result)), path.name)
    _write(path, result)


def _same(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raises where an earlier run's figures can't stand beside new ones."""
    run = earlier.get("run", {})
    old = {**earlier, "run": {name: run[name] for name in run if name != "workloads"}}
    new = json.loads(json.dumps(now))
    for name in sorted({*old, *new} - set(_PASSING)):
        if old.get(name) != new.get(name):
            raise SystemExit(
                f"{folder.name} can't be resumed: its {name} was {old.get(name)} and is {new.get(name)}; "
                "leave --resume out to begin anew"
            )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise schema.Invalid(f"{path}: no JSON: {error}") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    """The file appears whole or not at all. Paths are shown from the repository, and from the home folder: results are
    published."""
    text = json.dumps(content, indent=1).replace(f"{REPOSITORY}/", "").replace(f"{Path.home()}/", "~/") + "\n"
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.replace(path)
