"""`trace=`: a timeline of what a loader did."""

from __future__ import annotations

import json
from pathlib import Path

import forebay
import pytest
from conftest import SMALL, Dataset, OpenLoader, samples_of


def test_a_closed_loader_has_written_what_it_did(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    file = tmp_path / "epoch.json"
    with open_loader(dataset.urls, fields=SMALL, batch_size=6, trace=file) as loader:
        assert samples_of(loader) == dataset.everything
        assert not file.exists(), "it is written at the end"
    events = json.loads(file.read_text())["traceEvents"]
    decoded = [(event["args"]["shard"], event["args"]["sample"]) for event in events if event["name"] == "decode"]
    assert sorted(decoded) == dataset.everything
    assert sum(event["name"] == "consume" for event in events) == 10
    loader.close()


def test_ranks_write_a_file_each(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    for rank in range(2):
        cache = tmp_path / f"cache-{rank}"
        given = {"rank": rank, "world_size": 2, "cache_dir": cache, "trace": tmp_path / "epoch.trace.json"}
        with open_loader(dataset.urls, fields=SMALL, batch_size=6, **given) as loader:
            mine = samples_of(loader)
        events = json.loads((tmp_path / f"epoch.trace.rank{rank}.json").read_text())["traceEvents"]
        decoded = [(event["args"]["shard"], event["args"]["sample"]) for event in events if event["name"] == "decode"]
        assert sorted(set(mine) - set(decoded)) == []
    assert not (tmp_path / "epoch.trace.json").exists()


def test_without_it_nothing_is_written(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    with open_loader(dataset.urls) as loader:
        samples_of(loader)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_trace_that_can_not_be_written_is_an_error_and_the_loader_is_closed(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path
) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    loader = open_loader(dataset.urls, trace=folder / "epoch.json")
    folder.rmdir()
    with pytest.raises(forebay.ConfigError, match="can't be written"):
        loader.close()
    with pytest.raises(forebay.StateError, match="closed"):
        iter(loader)
