"""`gpu_decoded_limit`: decoded samples that stay in a device's memory, the nearest tier."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer
from PIL import Image
from simulator import Simulator
from soak import IntoConsumers
from test_bad_input import assert_ends_with_its_device, assert_fails_once
from test_batches import assert_same, host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Dataset, OpenLoader

NORMAL = [
    forebay.Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    forebay.Cast("float16"),
    forebay.Layout("NCHW"),
]
FIELDS = {
    "crop": forebay.Image(
        "jpg",
        transform=[forebay.Resize(48), forebay.RandomCrop(32, pad_if_needed=True), forebay.RandomHorizontalFlip()],
    ),
    "resized": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(40), forebay.RandomHorizontalFlip(), *NORMAL]),
    "cubic": forebay.Image(
        "jpg", transform=[forebay.RandomHorizontalFlip(), forebay.RandomResizedCrop((24, 36), interpolation="bicubic")]
    ),
    "same": forebay.Image("jpg", transform=[forebay.Resize((20, 30)), forebay.Layout("NCHW")]),
    "mask": forebay.Mask("seg.png", like="crop"),
    "label": forebay.Int("cls"),
    "score": forebay.Float("score"),
}
ALL: dict[str, Any] = {"device": "cuda", "gpu_decoded_limit": "16MB", "decoded_max_side": 64}
# A row of a table for each picture, and an address for each other field.
TABLE_BYTES = 5 * 96 + 2 * 8


def kept_bytes(loader: Any) -> int:
    return int(loader.stats().device["decoded_copied_bytes"])


@pytest.mark.parametrize("shuffle", [False, True, "global"])
def test_epochs_from_the_device_are_those_of_the_cpu(dataset: Dataset, open_loader: OpenLoader, shuffle: Any) -> None:
    ours = open_loader(dataset.urls, fields=FIELDS, shuffle=shuffle, seed=3, **ALL)
    theirs = open_loader(
        dataset.urls, fields=FIELDS, shuffle=shuffle, seed=3, decoded_limit="16MB", decoded_max_side=64
    )
    for epoch in range(3):
        before = ours.stats()
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
        stats = ours.stats().since(before)
        assert stats.samples_by_tier["gpu"] == (60 if epoch else 0), stats
        assert stats.samples == 60


def test_an_epoch_from_the_device_touches_neither_disk_nor_decoder_and_no_picture_crosses_the_bus(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    loader = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **ALL)
    first = driver.counter("h2d_bytes")
    whole = sum(np.from_dlpack(batch[name], device="cpu", copy=True).nbytes for batch in loader for name in batch)
    stats = loader.stats()
    assert stats.device["decoded_samples"] == 60
    # The batches as uint8, and what stays.
    float16 = 60 * 40 * 40 * 3
    assert driver.counter("h2d_bytes") - first == whole - float16 + kept_bytes(loader)
    crossed, allocated = driver.counter("h2d_bytes"), driver.counter("device_allocations")
    for _ in loader:
        pass
    again = loader.stats().since(stats)
    assert again.samples_by_tier == {"gpu": 60, "decoded": 0, "memory": 0, "nvme": 0, "origin": 0}
    assert again.decode_seconds == 0
    assert again.bytes_by_tier["nvme"] == again.bytes_by_tier["origin"] == 0
    assert driver.counter("h2d_bytes") - crossed == 60 * TABLE_BYTES
    assert driver.counter("device_allocations") == allocated


def test_what_does_not_fit_is_made_by_the_host_beside_what_does(dataset: Dataset, open_loader: OpenLoader) -> None:
    arguments: dict[str, Any] = {"fields": FIELDS, "shuffle": True, "batch_size": 7, "drop_last": False}
    ours = open_loader(dataset.urls, **{**ALL, "gpu_decoded_limit": 1_200_000}, **arguments)
    theirs = open_loader(dataset.urls, decoded_limit="16MB", decoded_max_side=64, **arguments)
    for _ in range(3):
        before = ours.stats()
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    hits = ours.stats().since(before).samples_by_tier["gpu"]
    assert 10 < hits < 50
    assert ours.stats().device["decoded_bytes"] <= 1_200_000


def test_host_memory_keeps_what_the_device_has_no_room_for(dataset: Dataset, open_loader: OpenLoader) -> None:
    limits = {"gpu_decoded_limit": 1_200_000, "decoded_limit": "16MB"}
    loader = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **{**ALL, **limits})
    for _ in range(2):
        before = loader.stats()
        for _ in loader:
            pass
    tiers = loader.stats().since(before).samples_by_tier
    assert min(tiers["gpu"], tiers["decoded"]) > 10, tiers
    assert tiers["gpu"] + tiers["decoded"] == 60


@pytest.mark.parametrize("seed", range(3))
def test_samples_that_other_ranks_take_next_make_room(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, seed: int
) -> None:
    driver.configure(f"seed={seed} bus_gbps=0.05")
    arguments: dict[str, Any] = {
        "fields": FIELDS,
        "shuffle": True,
        "rank": 1,
        "world_size": 2,
        "batch_size": 6,
        "seed": seed,
    }
    ours = open_loader(dataset.urls, **{**ALL, "gpu_decoded_limit": 500_000}, **arguments)
    theirs = open_loader(dataset.urls, decoded_limit="16MB", decoded_max_side=64, **arguments)
    for _ in range(5):
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    assert kept_bytes(ours) > 500_000, "samples came and went"
    assert ours.stats().samples_by_tier["gpu"] > 0


def test_batches_outlive_the_loader_and_its_tier(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=FIELDS, **ALL)
    for _ in loader:
        pass
    batch = next(iter(loader))
    wanted = {name: np.from_dlpack(batch[name], device="cpu", copy=True) for name in batch}
    assert loader.stats().samples_by_tier["gpu"] > 0
    loader.close()
    del loader
    for name, values in wanted.items():
        np.testing.assert_array_equal(np.from_dlpack(batch[name], device="cpu", copy=True), values)


def test_an_epoch_that_is_left_and_a_state_go_on_from_the_device(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **ALL)
    for _ in loader:
        pass
    running = iter(loader)
    for _ in range(3):
        next(running)
    state = loader.state_dict()
    fourth = next(running)
    del running
    loader.load_state_dict(state)
    again = next(iter(loader))
    assert again.samples == fourth.samples
    for name in FIELDS:
        np.testing.assert_array_equal(host(again[name]), host(fourth[name]))


def test_a_consumers_own_memory_is_written_from_the_device(
    dataset: Dataset, open_loader: OpenLoader, consumer: Consumer
) -> None:
    ours = open_loader(dataset.urls, IntoConsumers, fields=FIELDS, shuffle=True, **ALL)
    theirs = open_loader(dataset.urls, fields=FIELDS, shuffle=True, decoded_limit="16MB", decoded_max_side=64)
    for _ in range(2):
        batches = zip(ours, theirs, strict=True)
        pairs = ((left[name], np.asarray(right[name])) for left, right in batches for name in FIELDS)
        for got, wanted in consumer.own_copies(pairs):
            assert got.tobytes() == wanted.tobytes()
    assert ours.stats().samples_by_tier["gpu"] == 60


def test_large_pictures_go_in_pieces(write: Callable[..., str], open_loader: OpenLoader) -> None:
    rng, members = np.random.default_rng(1), {}
    for number in range(4):
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (1300 + number, 1400, 3), np.uint8)).save(png, "PNG", compress_level=0)
        members[f"{number}.png"] = png.getvalue()
    fields = {"image": forebay.Image("png", transform=[forebay.RandomCrop(64)])}
    settings: dict[str, Any] = {"fields": fields, "batch_size": 2, "host_memory_limit": "512MB"}
    url = write(members)
    ours = open_loader(url, device="cuda", gpu_decoded_limit="32MB", **settings)
    theirs = open_loader(url, **settings)
    for _ in range(2):
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    assert ours.stats().samples_by_tier["gpu"] == 4


IMAGE = forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32)])
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"fields": {"image": IMAGE, "text": forebay.Text("txt")}}, "'text'|\"text\" has values of differing sizes"),
    ({"fields": {"image": IMAGE, "mask": forebay.Mask("seg.png", like="image")}}, "only crops and flips masks"),
    (
        {"fields": {"image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32, antialias=False)])}},
        "antialias",
    ),
    (
        {"fields": {"image": forebay.Image("jpg", transform=[forebay.RandomCrop(32), forebay.Resize((8, 8))])}},
        "one resize, then one crop",
    ),
    ({"gpu_decoded_limit": 0}, "gpu_decoded_limit"),
    ({"gpu_decoded_limit": "64MB", "gpu_memory_limit": "32MB"}, "lower gpu_decoded_limit"),
    ({"device": "cpu"}, "gpu_decoded_limit='16MB': batches stay in host memory"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_what_the_device_cannot_keep_is_refused_by_name(
    dataset: Dataset, open_loader: OpenLoader, wrong: dict[str, Any], said: str
) -> None:
    arguments = {"fields": {"image": IMAGE}, "device": "cuda", "gpu_decoded_limit": "16MB", **wrong}
    with pytest.raises((forebay.ConfigError, forebay.DeviceError), match=said):
        open_loader(dataset.urls, **arguments)


@pytest.mark.parametrize("at", [1, 20, 90])
@pytest.mark.parametrize(
    "function",
    [
        "cuStreamCreate",
        "cuEventCreate",
        "cuEventRecord",
        "cuMemcpyHtoDAsync_v2",
        "cuEventQuery",
        "cuStreamWaitEvent",
        "cuLaunchKernel",
    ],
)
def test_any_call_may_fail_while_samples_come_and_are_used(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, function: str, at: int
) -> None:
    assert_fails_once(driver, f"{function}@{at}:801", lambda: open_loader(dataset.urls, fields=FIELDS, **ALL), epochs=2)


@pytest.mark.simulator
@pytest.mark.parametrize("at", [30, 200, 700])
def test_a_lost_device_ends_a_loader_that_keeps_samples_there(dataset: Dataset, tmp_path: Path, at: int) -> None:
    assert_ends_with_its_device(dataset, tmp_path, {"gpu_decoded_limit": "32MB"}, f"lost@{at}")
