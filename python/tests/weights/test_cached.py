"""Cache folders on disks that are full, broken or not there: every tensor comes right, or an error says what to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forebay
import pytest
from conftest import Mount, wait_for
from forebay import weights
from models import MIB, Model, limits, make
from servers import RangeServer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two files of 24 MiB: seven blocks each."""
    return make(tmp_path_factory.mktemp("model"), large=6, mib=4)


@pytest.fixture
def urls(model: Model) -> Iterator[list[str]]:
    with RangeServer(model.folder) as server:
        yield [f"{server.url}/{path.name}" for path in model.files]


def said(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    """What the library logged about it."""
    return [message for record in caplog.records if what in (message := record.getMessage())]


def test_a_disk_that_fills_up_loses_no_tensor_and_says_so_once(
    urls: list[str], model: Model, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    """Less than the model takes, though cache_limit would allow it."""
    folder = mount("20m") / "cache"
    settings = {"cache_dir": folder, "cache_limit": "1GB", "host_memory_limit": "64MiB"}
    with weights.open(urls, **settings) as opened:
        assert model.is_whole(opened.load())
        assert model.is_whole(dict(opened.stream()))
        assert opened.stats["origin"] > model.nbytes
    assert len(said(caplog, "disk is full")) == 1
    (text,) = said(caplog, "disk is full")
    assert str(folder) in text
    assert "not kept" in text
    assert not said(caplog, "could not be written"), "nothing of single blocks"
    assert model.is_whole(weights.load_file(urls, **settings))


def test_a_full_disk_is_an_error_where_a_file_must_be_there_whole(urls: list[str], model: Model, mount: Mount) -> None:
    folder = mount("20m") / "cache"
    with weights.open(urls, cache_dir=folder, cache_limit="1GB", host_memory_limit="64MiB") as opened:
        assert opened.prefetch().declined_blocks > 0
        for call in (lambda: opened.load(mmap=True), lambda: [opened.path(file.name) for file in opened.files]):
            with pytest.raises(forebay.CacheError, match=re.escape(str(folder))):
                call()
        assert model.is_whole(opened.load()), "it goes on past the cache"


def test_flipped_bits_in_the_cache_are_fetched_again_and_never_delivered(
    urls: list[str], model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = limits(tmp_path)
    assert model.is_whole(weights.load_file(urls, **settings))
    files = [path for path in (tmp_path / "cache" / "objects").rglob("*") if path.stat().st_size > MIB]
    assert len(files) == 2
    for path in files:
        with path.open("r+b") as file:
            # One bit of the second and one of the fifth block.
            for at in (5 * MIB, 17 * MIB + 12345):
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 4]))
    with weights.open(urls, **settings) as opened:
        assert model.is_whole(dict(opened.stream()))
        assert 0 < opened.stats["origin"] <= 4 * 4 * MIB, "of the bad blocks alone"
        assert opened.stats["disk"] >= model.nbytes - 4 * 4 * MIB - 8 * MIB
    assert len(said(caplog, "a cached block is bad")) == 4

    def is_all_kept() -> bool:
        with weights.open(urls, **settings) as opened:
            assert model.is_whole(opened.load())
            return bool(opened.stats["origin"] == 0)

    # A block comes back when the bad one's space has been given back.
    wait_for(is_all_kept)


def test_a_read_only_cache_dir_is_named(urls: list[str], model: Model, mount: Mount) -> None:
    folder = mount("80m")
    assert model.is_whole(weights.load_file(urls, cache_dir=folder / "cache"))
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for cache_dir in (folder / "cache", folder / "new"):
        with pytest.raises(forebay.CacheError, match=re.escape(str(cache_dir))) as caught:
            weights.open(urls, cache_dir=cache_dir)
        assert "Read-only file system" in str(caught.value)


def test_a_cache_dir_that_is_a_file_is_named(urls: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(forebay.CacheError, match=re.escape(str(tmp_path / "file"))):
        weights.open(urls, cache_dir=tmp_path / "file")
