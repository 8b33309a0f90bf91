"""The bar of an announced pass where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from conftest import Dataset, urls_of
from faults import Held
from servers import RangeServer

# Says what a front end is given, as it is given.
NOTEBOOK = """
import types
class Shell:
    kernel = object()
class Handle:
    def update(self, progress):
        say("updated", repr(progress), progress._repr_html_())
def display(progress, display_id):
    say("displayed", repr(progress), progress._repr_html_())
    return Handle()
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=Shell)
sys.modules["IPython.display"] = types.SimpleNamespace(display=display)
"""
FRONT_END = """
class Told:
    def write(self, text):
        say(repr(text))
    def flush(self):
        pass
sys.stderr = Told()
"""
BROKEN = """
import types
def get_ipython():
    raise RuntimeError("no shell")
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=get_ipython)
"""
COUNT = """
loader = open_loader(urls, cache, shuffle=True)
say("batches", loader.count())
"""


@pytest.fixture
def held(http: RangeServer) -> Iterator[Held]:
    origin = Held(http)
    yield origin
    origin.release()


def test_a_notebook_displays_a_bar_and_updates_it(
    http: RangeServer, held: Held, dataset: Dataset, tmp_path: Path
) -> None:
    total = sum(path.stat().st_size for path in dataset.paths)
    with Child(NOTEBOOK + COUNT, tmp_path, *urls_of(http, dataset)) as child:
        first = child.hear()
        assert first.startswith("displayed indexing: ")
        assert f"max='{total}'></progress>" in first
        assert child.hear().startswith("updated indexing: ")
        held.release()
        lines = [child.hear()]
        while lines[-1].startswith("updated"):
            lines.append(child.hear())
        assert "indexing: 100% of" in lines[-2]
        assert lines[-1] == "batches 8"


def test_a_front_end_of_another_kind_gets_a_line_that_overwrites_itself(
    http: RangeServer, held: Held, dataset: Dataset, tmp_path: Path
) -> None:
    with Child(FRONT_END + COUNT, tmp_path, *urls_of(http, dataset)) as child:
        assert child.hear().startswith(r"'\rindexing: ")
        held.release()
        lines = [child.hear()]
        while not lines[-1].startswith("batches"):
            lines.append(child.hear())
        assert lines[-3].startswith(r"'\rindexing: 100%")
        assert lines[-2] == r"'\n'"


@pytest.mark.parametrize("where", ["", BROKEN])
def test_a_log_gets_the_announcement_alone_and_a_broken_front_end_breaks_nothing(
    http: RangeServer, held: Held, dataset: Dataset, tmp_path: Path, where: str
) -> None:
    with Child(where + COUNT, tmp_path, *urls_of(http, dataset)) as child:
        assert held.begun.wait(60)
        held.release()
        assert child.hear() == "batches 8"
        status, _, err = child.finish()
    assert status == 0
    assert "shards have no index" in err
    assert "indexing:" not in err
