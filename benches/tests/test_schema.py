"""Results are in the format that benches/README.md describes, or are refused with the place where they aren't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
from harness import machine, results, schema

RESULTS = machine.BENCHES / "results"


def test_what_is_published_is_in_the_format() -> None:
    folders = [path.parent for path in RESULTS.glob("*/machine.json")]
    assert folders
    for folder in folders:
        assert results.read(folder).workloads


def test_what_the_harness_makes_is_in_the_format(tmp_path: Path) -> None:
    assert len(results.read(synthetic.everything(tmp_path / "run")).workloads) == 4
    schema.check_machine(json.loads(json.dumps(machine.describe(tmp_path, tmp_path))), "here")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": 3}, "unit: 3 is no text"),
        ({"rows": None}, "rows: None is no list"),
        ({"surprise": 1}, "'surprise' is not described"),
        ({"schema": 7}, "schema 7, and this harness reads 1"),
        ({"small": 1}, "small: 1 is no boolean"),
        ({"better": "fewer"}, "has to be 'more' or 'less'"),
        ({"wall_seconds": True}, "wall_seconds: True is none of integer, number"),
        ({"wall_seconds": float("nan")}, "wall_seconds: nan is none of"),
        ({"commands": {"a": "b"}}, "commands: a: 'b' is no list"),
        ({"targets": [{"what": "w", "reached": 1.0, "least": None, "most": None}]}, "targets[0]: no 'met'"),
        ({"curves": [{"title": "t", "x": "x", "y": "y", "lines": {"a": [{"x": 1}]}, "failed": {}}]}, "no 'min'"),
        ({"failed": "no room"}, "'conditions' is not described"),
    ],
)
def test_what_is_not_in_the_format_is_refused_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(schema.Invalid) as caught:
        schema.check_workload({**synthetic.reads(), **change}, "a.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.json: ")


def test_an_entry_that_is_missing_is_named() -> None:
    for name in ("conditions", "runs", "rows", "targets", "unit", "commands", "title"):
        whole = synthetic.reads()
        del whole[name]
        with pytest.raises(schema.Invalid, match=f"no '{name}'"):
            schema.check_workload(whole, "a.json")


def test_a_run_has_a_figure_or_the_reason_why_not() -> None:
    whole = synthetic.reads()
    whole["runs"][0].pop("value")
    with pytest.raises(schema.Invalid, match=r"runs\[0\] has to have one of value, error and left_out"):
        schema.check_workload(whole, "a.json")
    whole = synthetic.reads()
    whole["rows"][1].pop("median")
    with pytest.raises(schema.Invalid, match=r"rows\[1\] has 5 runs and 2 of"):
        schema.check_workload(whole, "a.json")


def test_a_folder_without_results_and_a_torn_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(schema.Invalid, match=r"no machine\.json"):
        results.read(tmp_path)
    folder = synthetic.folder(tmp_path / "run", synthetic.reads())
    (folder / "reads.json").write_text('{"schema": 1')
    with pytest.raises(schema.Invalid, match=r"reads\.json: no JSON"):
        results.read(folder)


def test_the_readme_names_every_entry() -> None:
    readme = (machine.BENCHES / "README.md").read_text()
    kinds = (schema.WORKLOAD, schema.FAILED, schema.MACHINE, schema.RUN, schema.ROW, schema.TARGET, schema.CURVE)
    names = {name.removesuffix("?") for kind in kinds for name in kind if isinstance(name, str) and name != schema.MANY}
    assert sorted(name for name in names if f"`{name}`" not in readme) == []


def test_what_is_written_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    command = [str(Path.home() / "bin" / "python"), str(results.REPOSITORY / "benches" / "peer.py")]
    content = {**synthetic.reads(), "commands": {"forebay": command}}
    results.add(tmp_path, content)
    written = (tmp_path / f"{content['workload']}.json").read_text()
    assert '"~/bin/python"' in written
    assert '"benches/peer.py"' in written
