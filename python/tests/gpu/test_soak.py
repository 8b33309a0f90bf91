"""Random consumers, seed by seed: a few here, 1,000 by `make soak`."""

from __future__ import annotations

import ctypes
import os
import random
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer, Taken
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


TIER_FIELDS = {
    "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32), forebay.RandomHorizontalFlip()]),
    "crop": forebay.Image("jpg", transform=[forebay.Resize(40), forebay.RandomCrop(32, pad_if_needed=True)]),
    "label": forebay.Int("cls"),
}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whichever_samples_come_and_go_on_the_device_its_rows_are_right(
    arguments: dict[str, Any], driver: Simulator, consumer: Consumer, seed: int
) -> None:
    rng = random.Random(seed)
    driver.configure(f"seed={seed} delay_us={rng.choice([0, 150, 400])} bus_gbps={rng.choice([0.02, 0.2, 20])}")
    ranks = rng.choice([1, 2, 3])
    order = {"shuffle": rng.choice([True, "global"]), "rank": rng.randrange(ranks), "world_size": ranks, "seed": seed}
    settings = {
        **arguments,
        **order,
        "fields": TIER_FIELDS,
        "decoded_max_side": 64,
        "batch_size": rng.choice([3, 5, 8]),
    }
    limit = rng.choice([100_000, 300_000, 4_000_000])
    ours = forebay.DataLoader(**settings, device="cuda", gpu_decoded_limit=limit)
    theirs = forebay.DataLoader(**settings, decoded_limit="4MB")
    streams = [consumer.stream() for _ in range(2)]
    held: list[Taken] = []
    for epoch in range(rng.choice([2, 4])):
        read = []
        leaves = rng.choice([None, None, rng.randrange(5)])
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        for left, right in zip(ours, theirs, strict=True):
            name, stream = rng.choice(list(TIER_FIELDS)), rng.choice(streams)
            taken = Taken(left[name].__dlpack__(stream=stream))
            read.append((consumer.copy_out(taken.address, taken.bytes, stream), np.ascontiguousarray(right[name])))
            held.append(taken)
            if len(held) > rng.randrange(4):
                held.pop(rng.randrange(len(held))).release()
            if left.index == leaves:
                break
        consumer.wait_for_all()
        for at, wanted in read:
            assert ctypes.string_at(at, wanted.nbytes) == wanted.tobytes()
            consumer.forget(at)
    if rng.random() < 0.5:
        ours.close()
    for taken in held:
        taken.release()
    consumer.wait_for_all()
    ours.close()
    theirs.close()
    for stream in streams:
        consumer.destroy(stream)
