"""Bugs of ours on purpose: each is found on every seed, and without one nothing is. `make mutants` builds and runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_weights import mixed, write

if TYPE_CHECKING:
    from conftest import Dataset

HERE = Path(__file__).parent
MUTANTS = os.environ.get("FOREBAY_TEST_MUTANTS")
SEEDS = int(os.environ.get("FOREBAY_TEST_SEEDS", "20"))

# What each is found by, or one of two: which is first depends on the order of threads.
FOUND_BY = {
    "no-wait": "race",
    "slot-early": "host-write",
    "no-guard": "race",
    "guard-on-ours": "race",
    "one-guard": "race",
    "event-early": "race|host-write",
    "unpin-early": "in-flight",
    "free-early": "in-flight",
    "capsule-early": "race",
    "context-left": "not-restored",
    "mode-left": "not-restored",
    "capture-ignored": "capture",
    "tier-no-wait": "race",
    "tier-early": "race",
    "draw-no-wait": "race",
    "frames-early": "race",
    "column-no-wait": "race",
}

# Those that weights lean on, by ways of their own.
OF_WEIGHTS = (
    "no-wait", "slot-early", "no-guard", "guard-on-ours", "one-guard", "event-early", "unpin-early", "free-early",
    "capsule-early", "context-left", "mode-left",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not MUTANTS, reason="`make mutants` builds the extension with bugs on purpose")


def scenario(script: str, arguments: list[str], tmp_path: Path, mutant: str, seed: int) -> tuple[int, str, str]:
    """How a scenario ended: its status, what was found first, and what it said."""
    log = tmp_path / f"{mutant or 'none'}-{seed}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{MUTANTS}:{HERE}",
        "FOREBAY_MUTANT": mutant,
        "FOREBAY_FAKE_CUDA_LOG": str(log),
        "FOREBAY_FAKE_CUDA_ABORT": "1",
    }
    command = [sys.executable, str(HERE / script), str(seed), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, log.read_text() if log.exists() else "", done.stderr


@pytest.fixture
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.node.callspec.params["script"] == "scenario.py":
        dataset: Dataset = request.getfixturevalue("dataset")
        return [str(tmp_path / "cache"), *dataset.urls]
    file = tmp_path / "model.safetensors"
    write(file, mixed())
    return [str(file)]


@pytest.mark.parametrize(
    ("script", "mutant"),
    [("scenario.py", mutant) for mutant in FOUND_BY] + [("weights_scenario.py", mutant) for mutant in OF_WEIGHTS],
)
def test_every_bug_is_found_on_every_seed(script: str, arguments: list[str], tmp_path: Path, mutant: str) -> None:
    for seed in range(SEEDS):
        status, found, said = scenario(script, arguments, tmp_path, mutant, seed)
        assert re.match(f"forebay-fake-cuda: ({FOUND_BY[mutant]}): ", found), (seed, status, found, said)
        assert status != 0, seed


@pytest.mark.parametrize("script", ["scenario.py", "weights_scenario.py"])
def test_without_a_bug_nothing_is_found(script: str, arguments: list[str], tmp_path: Path) -> None:
    for seed in range(SEEDS):
        assert scenario(script, arguments, tmp_path, "", seed)[:2] == (0, ""), seed
