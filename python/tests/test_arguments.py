"""An argument that can't be used is an error that says what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import pytest
from conftest import LABEL, Dataset, OpenLoader
from forebay._sizes import parse


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 0}, "batch_size=0: give a whole number, 1 or more"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"fields": {}}, "fields is empty"),
        ({"fields": None}, "give a dict"),
        ({"fields": {"": forebay.Int("cls")}}, "names a field"),
        ({"fields": {"label": "cls"}}, "'label'"),
        ({"fields": {"label": forebay.Int}}, "call it"),
        ({"fields": {"mask": forebay.Mask("png", like="image")}}, "no field of this loader"),
        ({"fields": {"label": forebay.Int("cls"), "mask": forebay.Mask("png", like="label")}}, "not an Image"),
        ({"shuffle": "yes"}, '"sticky" or "global"'),
        ({"shuffle": 1}, "shuffle=1"),
        ({"seed": -1}, "seed=-1"),
        ({"drop_last": 1}, "True or False"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"prefetch_factor": 0}, "prefetch_factor=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"rank": 0}, "give both"),
        ({"rank": 2, "world_size": 2}, "ranks count from 0"),
        ({"shuffle_window": 0}, "shuffle_window=0"),
        ({"canonical_ranks": 0}, "canonical_ranks=0"),
        ({"device": "tpu"}, 'give "cpu", "cuda"'),
        ({"device": "cuda:first"}, "cuda:N with the device's number"),
        ({"device": "cuda", "gpu_memory_limit": "much"}, "gpu_memory_limit"),
        ({"gpu_memory_limit": "1GB"}, "batches stay in host memory"),
        ({"cache_dir": 3}, "cache_dir=3"),
        ({"cache_limit": "20 parsecs"}, '"500GiB"'),
        ({"cache_limit": -5}, "cache_limit=-5"),
        ({"host_memory_limit": 0}, "host_memory_limit=0"),
        ({"host_memory_limit": "1kB"}, "host_memory_limit"),
        ({"storage_options": ["endpoint"]}, "give a dict"),
        ({"storage_options": {"endpoint": None}}, "endpoint"),
        ({"on_error": "ignore"}, "'raise', 'skip'"),
        ({"max_errors": -1}, "max_errors=-1"),
        ({"map": 3}, "takes a batch"),
        ({"trace": 3}, "trace=3"),
        ({"trace": "nowhere/to/be/found.json"}, "can't be written"),
    ],
)
def test_bad_arguments(dataset: Dataset, open_loader: OpenLoader, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(forebay.ConfigError) as caught:
        open_loader(dataset.urls, **arguments)
    assert says in str(caught.value)


@pytest.mark.skipif(forebay._forebay.count_devices()[0] > 0, reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_a_driver_a_gpu_is_a_clear_error_and_auto_is_host_memory(
    dataset: Dataset, open_loader: OpenLoader, device: str
) -> None:
    with pytest.raises(forebay.DeviceError, match=r'libcuda\.so\.1 .* install NVIDIA.s driver.* device="cpu" works'):
        open_loader(dataset.urls, device=device)
    batch = next(iter(open_loader(dataset.urls, device="auto")))
    assert isinstance(batch["label"], forebay.Array)


@pytest.mark.parametrize("urls", [None, 3, [], [""], [None], [b"x.tar"]])
def test_bad_urls(open_loader: OpenLoader, urls: Any) -> None:
    with pytest.raises(forebay.ConfigError, match="give a URL"):
        open_loader(urls)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: forebay.Int(), 'such as Int("cls")'),
        (lambda: forebay.Int("a", "a"), "given twice"),
        (lambda: forebay.Int("a/b"), "no member suffix"),
        (lambda: forebay.Int(3), "no member suffix"),
        (lambda: forebay.Image("jpg", transform=["flip"]), "map="),
        (lambda: forebay.Image("jpg", transform=3), "transform holds 3"),
        (lambda: forebay.Image("jpg", transform=[forebay.CenterCrop]), "call it"),
        (lambda: forebay.Image("jpg", decode="quick"), "'exact', 'fast'"),
        (lambda: forebay.Image("jpg", pad=256), "pad=256"),
        (lambda: forebay.Image("jpg", pad=0, ragged=True), "one of the two"),
        (lambda: forebay.Mask("png", like=""), 'like="image"'),
        (lambda: forebay.RandomResizedCrop(0), "size=0"),
        (lambda: forebay.RandomResizedCrop((1, 2, 3)), "(height, width)"),
        (lambda: forebay.RandomResizedCrop(8, scale=(1, 0.5)), "not above the second"),
        (lambda: forebay.RandomResizedCrop(8, scale=(0.5, 2)), "from 0 to 1"),
        (lambda: forebay.RandomResizedCrop(8, ratio=3), "two numbers"),
        (lambda: forebay.RandomResizedCrop(8, interpolation="lanczos"), "'bicubic'"),
        (lambda: forebay.RandomCrop(0), "size=0"),
        (lambda: forebay.RandomCrop(8, pad_if_needed=1), "True or False"),
        (lambda: forebay.RandomResizedCrop(8, antialias=None), "True or False"),
        (lambda: forebay.Resize((8, 8), max_size=9), "shorter side"),
        (lambda: forebay.Resize(8, max_size=8), "max_size=8"),
        (lambda: forebay.Resize(70_000), "65535"),
        (lambda: forebay.RandomHorizontalFlip(1.5), "from 0 to 1"),
    ],
)
def test_bad_fields_and_transforms(make: Any, says: str) -> None:
    with pytest.raises(forebay.ConfigError) as caught:
        make()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9),
        ("500GiB", 500 * 2**30),
        ("1.5 MB", 1_500_000),
        ("7", 7),
        ("2k", 2000),
        (12, 12),
        ("1_000 b", 1000),
    ],
)
def test_human_sizes(text: Any, size: int) -> None:
    assert parse("limit", text) == size


@pytest.mark.parametrize("text", ["", "GB", "1XB", "-1GB", "1e99GB", "nan", "inf", 1.5, None, 0, "0.1B", True])
def test_sizes_that_are_none(text: Any) -> None:
    with pytest.raises(forebay.ConfigError, match="limit"):
        parse("limit", text)


def test_rank_and_world_size_come_from_the_environment(
    dataset: Dataset, open_loader: OpenLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    loader = open_loader(dataset.urls)
    assert (loader.rank, loader.world_size) == (1, 4)
    assert open_loader(dataset.urls, rank=0, world_size=2).world_size == 2
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(forebay.ConfigError, match="RANK='one'"):
        open_loader(dataset.urls)
    monkeypatch.delenv("RANK")
    with pytest.raises(forebay.ConfigError, match="WORLD_SIZE"):
        open_loader(dataset.urls)


def test_threads_default_to_the_cores_of_a_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forebay._forebay.available_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert forebay._forebay.available_threads() == max(1, whole // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "nonsense")
    assert forebay._forebay.available_threads() == whole


def test_the_cache_folder_has_a_default_in_the_users_cache(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "fields": LABEL, "host_memory_limit": "256MB", "cache_limit": "1GB"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with forebay.DataLoader(dataset.urls, **arguments):
        assert (tmp_path / "xdg/forebay/data").is_dir()
    monkeypatch.setenv("FOREBAY_CACHE_DIR", str(tmp_path / "elsewhere"))
    with forebay.DataLoader(dataset.urls, **arguments):
        assert (tmp_path / "elsewhere").is_dir()


def test_errors_are_built_in_ones_too() -> None:
    pairs = {
        forebay.ConfigError: ValueError,
        forebay.NotFoundError: FileNotFoundError,
        forebay.PermissionError: PermissionError,
        forebay.OriginError: ConnectionError,
        forebay.ChangedError: forebay.OriginError,
        forebay.TimeoutError: TimeoutError,
        forebay.StalledError: TimeoutError,
        forebay.DataError: ValueError,
        forebay.StateError: ValueError,
        forebay.CacheError: OSError,
        forebay.ForkError: RuntimeError,
        forebay.InternalError: RuntimeError,
    }
    for error, built_in in pairs.items():
        assert issubclass(error, forebay.Error)
        assert issubclass(error, built_in)
        assert error.__module__ == "forebay"
        assert str(error("text")) == "text"
