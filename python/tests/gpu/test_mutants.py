"""Bugs of ours on purpose: each is found on every seed, and without one nothing is. `make mutants` builds and runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Dataset

HERE = Path(__file__).parent
MUTANTS = os.environ.get("FOREBAY_TEST_MUTANTS")
SEEDS = int(os.environ.get("FOREBAY_TEST_SEEDS", "20"))

# What each is found by.
FOUND_BY = {
    "no-wait": "race",
    "slot-early": "host-write",
    "no-guard": "race",
    "guard-on-ours": "race",
    "one-guard": "race",
    "event-early": "race",
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

pytestmark = pytest.mark.skipif(not MUTANTS, reason="`make mutants` builds the extension with bugs on purpose")


def scenario(dataset: Dataset, tmp_path: Path, mutant: str, seed: int) -> tuple[int, str, str]:
    """How the scenario ended: its status, what was found first, and what it said."""
    log = tmp_path / f"{mutant or 'none'}-{seed}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{MUTANTS}:{HERE}",
        "FOREBAY_MUTANT": mutant,
        "FOREBAY_FAKE_CUDA_LOG": str(log),
        "FOREBAY_FAKE_CUDA_ABORT": "1",
    }
    command = [sys.executable, str(HERE / "scenario.py"), str(seed), str(tmp_path / "cache"), *dataset.urls]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, log.read_text() if log.exists() else "", done.stderr


@pytest.mark.parametrize("mutant", FOUND_BY)
def test_every_bug_is_found_on_every_seed(dataset: Dataset, tmp_path: Path, mutant: str) -> None:
    for seed in range(SEEDS):
        status, found, said = scenario(dataset, tmp_path, mutant, seed)
        assert found.startswith(f"forebay-fake-cuda: {FOUND_BY[mutant]}: "), (seed, status, found, said)
        assert status != 0, seed


def test_without_a_bug_nothing_is_found(dataset: Dataset, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        assert scenario(dataset, tmp_path, "", seed)[:2] == (0, ""), seed
