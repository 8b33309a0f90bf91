"""Decoded samples that stay in host memory: an epoch over them reads nothing and decodes nothing, and gives the same batches."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import forebay
import numpy as np
import pytest
from conftest import SMALL, Dataset, OpenLoader
from PIL import Image

CROPS = [forebay.Resize(64), forebay.RandomCrop(48), forebay.RandomHorizontalFlip()]
CONVERTED = [*CROPS, forebay.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), forebay.Layout("NCHW")]
EVERY_KIND = {
    "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(40), forebay.RandomHorizontalFlip()]),
    "mask": forebay.Mask("seg.png", like="image"),
    "whole": forebay.Image("jpg", pad=3),
    "label": forebay.Int("cls"),
    "score": forebay.Float("score"),
    "text": forebay.Text("txt"),
    "document": forebay.Json("json"),
    "blob": forebay.Bytes("bin"),
    "array": forebay.Numpy("npy"),
}


def plain(column: Any) -> Any:
    return np.asarray(column).copy() if isinstance(column, forebay.Array) else column


def epoch(loader: forebay.DataLoader) -> tuple[list[dict[str, Any]], forebay.Stats]:
    """One epoch's batches, and what it took."""
    before = loader.stats()
    batches = []
    for batch in loader:
        batches.append({**{name: plain(column) for name, column in batch.items()}, "samples": batch.samples})
    return batches, loader.stats().since(before)


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, column in mine.items():
            np.testing.assert_equal(column, other[name], err_msg=name)


def assert_only_decoded(stats: forebay.Stats, samples: int) -> None:
    assert stats.samples_by_tier == {"gpu": 0, "decoded": samples, "memory": 0, "nvme": 0, "origin": 0}
    assert {tier for tier, read in stats.bytes_by_tier.items() if read} == {"decoded"}
    assert stats.decode_seconds == 0
    assert stats.hit_rate == 1


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        SMALL,
        {"image": forebay.Image("jpg", transform=CROPS), "label": forebay.Int("cls")},
        {"image": forebay.Image("jpg", transform=CONVERTED)},
        EVERY_KIND,
    ],
    ids=["boxes", "crops", "converted", "every kind"],
)
def test_later_epochs_read_and_decode_nothing_and_give_the_same_batches(
    dataset: Dataset, open_loader: OpenLoader, shuffle: bool, fields: Any
) -> None:
    settings = {"fields": fields, "shuffle": shuffle, "seed": 3, "drop_last": True, "host_memory_limit": "1GB"}
    kept = open_loader(dataset.urls, decoded_limit="128MB", **settings)
    runs = [epoch(kept) for _ in range(3)]
    assert runs[0][1].samples_by_tier["decoded"] == 0
    served = kept.stats().cache
    for _, stats in runs[1:]:
        # Of 60 samples 56 fill batches, and in a shuffled epoch 4 of these may be new.
        assert stats.samples_by_tier["decoded"] >= 52
    fourth, stats = epoch(kept)
    if not shuffle:
        assert_only_decoded(stats, 56)
        now = kept.stats().cache
        assert [now[tier] for tier in ("ram", "disk", "origin")] == [served[tier] for tier in ("ram", "disk", "origin")]
    kept.close()
    plainly = open_loader(dataset.urls, **settings)
    for ours in [run for run, _ in runs] + [fourth]:
        assert_same(ours, epoch(plainly)[0])


def test_an_epoch_over_kept_samples_needs_no_shard(dataset: Dataset, open_loader: OpenLoader, tmp_path: Any) -> None:
    copy = tmp_path / "copy.tar"
    copy.write_bytes(dataset.paths[0].read_bytes())
    loader = open_loader(str(copy), fields=SMALL, shuffle=True, decoded_limit="64MB", batch_size=10)
    epoch(loader)
    copy.unlink()
    for _ in range(2):
        batches, stats = epoch(loader)
        assert sorted(sample for batch in batches for sample in batch["samples"]) == [(0, at) for at in range(20)]
        assert_only_decoded(stats, 20)


def test_what_does_not_fit_is_decoded_again_and_what_is_kept_stays(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("jpg", transform=CROPS), "label": forebay.Int("cls")}
    # About a third of 60 images of 64 pixels by some more.
    limit = 400_000
    loader = open_loader(dataset.urls, fields=fields, shuffle=True, decoded_limit=limit)
    runs = [epoch(loader)]
    first = loader.stats()
    assert 10 < first.decoded_samples < 40
    assert limit * 0.9 < first.decoded_bytes <= limit
    for _ in range(3):
        runs.append(epoch(loader))
        stats = runs[-1][1]
        # Every one of them, and the padding of the last batch once more where it is one of them.
        assert first.decoded_samples <= stats.samples_by_tier["decoded"] <= first.decoded_samples + 4
        assert (stats.decoded_samples, stats.decoded_bytes) == (first.decoded_samples, first.decoded_bytes)
    loader.close()
    assert loader.stats().decoded_bytes == 0
    plainly = open_loader(dataset.urls, fields=fields, shuffle=True)
    for batches, _ in runs:
        assert_same(batches, epoch(plainly)[0])


def test_a_state_goes_on_over_kept_samples_as_without_them(dataset: Dataset, open_loader: OpenLoader) -> None:
    rows = {}
    for limit in (None, "64MB", 400_000):
        loader = open_loader(dataset.urls, fields=SMALL, shuffle=True, decoded_limit=limit)
        epoch(loader)
        batches = iter(loader)
        begun = [plain(next(batches)["image"]) for _ in range(3)]
        state = loader.state_dict()
        rest, _ = epoch(loader)
        loader.load_state_dict(state)
        resumed, _ = epoch(loader)
        loader.set_epoch(0)
        again, _ = epoch(loader)
        loader.close()
        rows[limit] = [begun, *([batch["image"] for batch in run] for run in (rest, resumed, again))]
    for limit in ("64MB", 400_000):
        np.testing.assert_equal(rows[limit], rows[None])


@pytest.mark.parametrize("shuffle", [True, "sticky"])
def test_a_rank_keeps_what_it_takes(dataset: Dataset, open_loader: OpenLoader, shuffle: Any) -> None:
    settings = {"fields": SMALL, "shuffle": shuffle, "rank": 1, "world_size": 2, "batch_size": 5}
    kept = open_loader(dataset.urls, decoded_limit="64MB", **settings)
    runs = [epoch(kept) for _ in range(4)]
    assert all(stats.samples_by_tier["decoded"] > 0 for _, stats in runs[1:])
    if shuffle == "sticky":
        assert runs[3][1].samples_by_tier["decoded"] >= 28
    kept.close()
    plainly = open_loader(dataset.urls, **settings)
    for batches, _ in runs:
        assert_same(batches, epoch(plainly)[0])


def test_a_damaged_sample_is_never_kept_and_is_replaced_in_every_epoch(
    dataset: Dataset, write: Callable[..., str], open_loader: OpenLoader
) -> None:
    samples = dataset.samples[0]
    members = [
        (name, b"no picture" if (name.endswith(".jpg") and sample is samples[4]) else data)
        for sample in samples
        for name, data in sample.members()
    ]
    path = write(members)
    settings = {"fields": SMALL, "on_error": "skip", "batch_size": 10}
    for shuffle in (False, True):
        kept = open_loader(path, shuffle=shuffle, decoded_limit="64MB", **settings)
        runs = [epoch(kept) for _ in range(3)]
        assert kept.stats().decoded_samples == 19
        assert [stats.skipped for _, stats in runs] == [1, 1, 1]
        assert runs[2][1].samples_by_tier["decoded"] == 20, "the stand-in is kept, too"
        kept.close()
        plainly = open_loader(path, shuffle=shuffle, **settings)
        for batches, _ in runs:
            assert_same(batches, epoch(plainly)[0])
        plainly.close()


def test_decoded_max_side_shrinks_images_as_pillow_does(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("jpg", ragged=True)}
    loader = open_loader(dataset.urls[:1], fields=fields, decoded_limit="64MB", decoded_max_side=80, batch_size=20)
    for _ in range(2):
        [batch] = list(loader)
        for image, sample in zip(batch["image"], dataset.samples[0], strict=True):
            picture = Image.open(io.BytesIO(sample.jpg)).convert("RGB")
            longer = max(picture.size)
            size = (picture.width * 80 // longer, picture.height * 80 // longer)
            expected = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).astype(int)
            ours = np.asarray(image).astype(int)
            assert ours.shape == expected.shape
            assert np.abs(ours - expected).max() <= 2
    assert loader.stats().samples_by_tier["decoded"] == 20


def test_arguments_that_do_not_work_say_what_does(dataset: Dataset, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.ConfigError, match="decoded_limit"):
        open_loader(dataset.urls, decoded_limit=0)
    with pytest.raises(forebay.ConfigError, match="decoded_limit='much'"):
        open_loader(dataset.urls, decoded_limit="much")
    with pytest.raises(forebay.ConfigError, match="decoded_max_side"):
        open_loader(dataset.urls, decoded_limit="1MB", decoded_max_side=0)
    with pytest.raises(forebay.ConfigError, match="give decoded_limit too"):
        open_loader(dataset.urls, decoded_max_side=256)
    with pytest.raises(forebay.ConfigError, match=r"(?s)\d+ bytes of decoded samples \(decoded_limit\)") as caught:
        open_loader(dataset.urls, decoded_limit="1GB")
    assert "host_memory_limit" in str(caught.value)
