"""Random consumers, seed by seed: a few here, 1,000 by `make soak`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer
from simulator import Simulator
from soak import FIELDS, Soak

if TYPE_CHECKING:
    from conftest import Dataset

SEEDS = int(os.environ.get("FOREBAY_TEST_SEEDS", "6"))


@pytest.fixture(scope="module")
def arguments(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "urls": dataset.urls,
        "fields": FIELDS,
        "batch_size": 8,
        "host_memory_limit": "256MB",
        "cache_limit": "1GB",
        "num_threads": 2,
        "cache_dir": tmp_path_factory.mktemp("soak"),
        "timeout": 60,
    }


@pytest.fixture(scope="module")
def right(arguments: dict[str, Any]) -> list[dict[str, bytes]]:
    """An epoch's bytes, from the CPU."""
    with forebay.DataLoader(**arguments) as loader:
        return [{name: np.ascontiguousarray(batch[name]).tobytes() for name in batch} for batch in loader]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_a_consumer_does_it_gets_the_right_bytes(
    arguments: dict[str, Any], right: list[dict[str, bytes]], driver: Simulator, consumer: Consumer, seed: int
) -> None:
    # Some drivers are older than events of everything, and some devices have no virtual memory management.
    faults = "" if seed % 3 else "cuCtxRecordEvent@1+:801"
    driver.configure(f"seed={seed} faults={faults} vmm={int(seed % 5 > 0)} delay_us={seed % 4 * 150}")
    soak = Soak(seed, consumer, right)
    # Few batches fit, so that memory is used again at once.
    soak.run(lambda kind: kind(**arguments, device="cuda", gpu_memory_limit="2MB"))
    del soak
