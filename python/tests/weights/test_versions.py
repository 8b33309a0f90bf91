"""Which version of a model is read: the one that was found when it was opened, or none; and how long the cache keeps it."""

from __future__ import annotations

import os
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
from children import Child, program
from conftest import need_weed
from faults import SIZE_ASKED
from forebay import weights
from models import MIB, Model, limits, make
from servers import RangeServer, SeaweedFS


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Model, Model]:
    """Two of one model: the same names and shapes, other bytes. The first one's folder is where it is opened."""
    return make(tmp_path / "model", seed=1), make(tmp_path / "other", seed=2)


def all_until(error: type[Exception], says: str, tensors: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """What comes before the error that must come."""
    came: dict[str, Any] = {}
    with pytest.raises(error, match=says):
        came.update(tensors)
    return came


def test_a_local_file_rewritten_in_place_is_named(versions: tuple[Model, Model]) -> None:
    """What came before is the old version's."""
    old, new = versions
    opened = weights.open(old.folder)
    tensors = opened.stream(["1.0.weight"])
    came = dict(tensors)
    old.files[1].write_bytes(new.files[1].read_bytes())
    came |= all_until(forebay.ChangedError, rf"{re.escape(old.files[1].name)} changed", opened.stream())
    assert {name[0] for name in came} <= {"1"}
    assert all(old.has(name, tensor) for name, tensor in came.items())


def test_a_local_file_rewritten_in_the_midst_of_a_stream_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read ahead comes; what is read later is the new version's, and never given."""
    monkeypatch.setattr("forebay.weights._model._AHEAD_BYTES", 4 * MIB)
    old, new = make(tmp_path / "model", seed=1, large=12), make(tmp_path / "other", seed=2, large=12)
    tensors = weights.stream(old.folder)
    came = dict([next(tensors)])
    for path, other in zip(old.files, new.files, strict=True):
        path.write_bytes(other.read_bytes())
    came |= all_until(forebay.ChangedError, r"model-0000\d-of-00002\.safetensors changed", tensors)
    assert all(old.has(name, tensor) for name, tensor in came.items())


def test_a_local_file_cut_short_under_an_open_model_is_named(versions: tuple[Model, Model]) -> None:
    old, _ = versions
    with weights.open(old.folder) as opened:
        os.truncate(old.files[1], MIB)
        with pytest.raises(forebay.ChangedError, match=rf"{re.escape(old.files[1].name)} changed"):
            opened.load()
        assert old.has("1.0.weight", opened.get_tensor("1.0.weight"))


def test_a_local_file_that_another_is_renamed_over_is_read_to_its_end(versions: tuple[Model, Model]) -> None:
    old, new = versions
    with weights.open(old.folder) as opened:
        tensors = opened.stream()
        came = dict([next(tensors)])
        for path, other in zip(old.files, new.files, strict=True):
            other.rename(path)
        assert old.is_whole(came | dict(tensors))
        assert old.is_whole(opened.load())
    assert new.is_whole(weights.load_file(old.folder))


def replace_all(server: RangeServer, old: Model, new: Model) -> None:
    """The server has the other version from now on."""
    for path, other in zip(old.files, new.files, strict=True):
        shutil.copy(other, path)


def test_an_http_file_replaced_between_open_and_read(versions: tuple[Model, Model], tmp_path: Path) -> None:
    old, new = versions
    with RangeServer(old.folder) as server:
        urls = [f"{server.url}/{path.name}" for path in old.files]
        with weights.open(urls, **limits(tmp_path)) as opened:
            replace_all(server, old, new)
            came = all_until(forebay.ChangedError, r"model-0000\d-of-00002\.safetensors changed", opened.stream())
            assert all(old.has(name, tensor) for name, tensor in came.items())
            with pytest.raises(forebay.ChangedError):
                opened.load()
        assert new.is_whole(weights.load_file(urls, **limits(tmp_path)))


def test_an_http_file_replaced_in_the_midst_of_a_load(versions: tuple[Model, Model], tmp_path: Path) -> None:
    """It is replaced when its second block is asked for."""
    old, new = versions
    with RangeServer(old.folder) as server:
        url = f"{server.url}/{old.files[1].name}"
        with weights.open(url, **limits(tmp_path)) as opened:

            def answer(handler: Any) -> bool:
                if handler.command == "GET" and handler.headers.get("range") != SIZE_ASKED:
                    server.answer = None
                    replace_all(server, old, new)
                return False

            server.answer = answer
            came = all_until(forebay.ChangedError, f"{re.escape(url)} changed", opened.stream())
            assert server.answer is None
            assert all(old.has(name, tensor) for name, tensor in came.items())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """SeaweedFS with a bucket `models`."""
    need_weed()
    with SeaweedFS(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("models")
        yield server


def put(bucket: SeaweedFS, prefix: str, model: Model) -> None:
    for path in model.folder.iterdir():
        bucket.put("models", f"{prefix}/{path.name}", path)


@pytest.mark.parametrize("mmap", [False, True])
def test_files_whose_urls_differ_in_their_queries_are_told_apart(
    versions: tuple[Model, Model], tmp_path: Path, mmap: bool
) -> None:
    model, _ = versions
    with RangeServer(model.folder) as server:

        def answer(handler: Any) -> bool:
            handler.path = "/" + handler.path.partition("file=")[2]
            return False

        server.answer = answer
        urls = [f"{server.url}/resolve?file={path.name}" for path in model.files]
        with weights.open(urls, **limits(tmp_path)) as opened:
            assert len({file.name for file in opened.files}) == len(urls)
            shown = [Path(opened.path(file.name)).read_bytes() for file in opened.files]
            assert shown == [path.read_bytes() for path in model.files]
            assert {opened.info(name).file for name in opened} == {file.name for file in opened.files}
            assert model.is_whole(opened.load(mmap=mmap))


def test_an_s3_model_replaced_between_open_and_read(
    versions: tuple[Model, Model], bucket: SeaweedFS, tmp_path: Path
) -> None:
    old, new = versions
    settings = limits(tmp_path, storage_options=bucket.storage_options)
    put(bucket, "replaced", old)
    with weights.open("s3://models/replaced/", **settings) as opened:
        put(bucket, "replaced", new)
        came = all_until(forebay.ChangedError, r"s3://models/replaced/.* changed", opened.stream())
        assert all(old.has(name, tensor) for name, tensor in came.items())
    assert new.is_whole(weights.load_file("s3://models/replaced/", **settings))


def test_a_version_serves_while_another_is_loaded(
    versions: tuple[Model, Model], bucket: SeaweedFS, tmp_path: Path
) -> None:
    """Tensor by tensor in turn: each comes of the version that its model was opened with."""
    old, new = versions
    settings = limits(tmp_path, storage_options=bucket.storage_options)
    put(bucket, "swapped", old)
    url = "s3://models/swapped/"
    with weights.open(url, **settings) as before:
        assert old.is_whole(before.load())
        put(bucket, "swapped", new)
        with weights.open(url, **settings) as after:
            assert [one.name for one in before.files] == [two.name for two in after.files]
            assert not {one.version for one in before.files} & {two.version for two in after.files}
            for (name, one), (same, two) in zip(before.stream(), after.stream(), strict=True):
                assert name == same
                assert old.has(name, one)
                assert new.has(name, two)
            assert after.stats["origin"] > 0
        assert old.is_whole(before.load()), "when the newer one is closed, too"


PINNING = """
from forebay import weights
settings = dict(cache_dir=cache, cache_limit="64MiB", host_memory_limit="64MiB")
def load(url):
    with weights.open(url, **settings) as opened:
        for _ in opened.stream():
            pass
        return opened.stats["origin"]
pinned = weights.open(urls[0], **settings)
for _ in pinned.stream():
    pass
first = pinned.stats["origin"]
for url in urls[1:]:
    load(url)
for _ in pinned.stream():
    pass
say(first, pinned.stats["origin"])
# Keeps the folder open: its order of use is finer than what is written down at its end, in seconds.
beside = weights.open(urls[1], **settings)
if wait() == "close":
    pinned.close()
for url in urls[2:] * 2:
    load(url)
say(load(urls[0]))
"""


@pytest.mark.parametrize(("told", "again"), [("keep", False), ("close", True)])
def test_a_pinned_model_stays_and_an_unused_one_is_evicted(tmp_path: Path, told: str, again: bool) -> None:
    """Six of 18 MiB each in 64 MiB; the host tier holds less than one of them."""
    models = [make(tmp_path / f"model-{number}", seed=number, files=1, large=6) for number in range(6)]
    with RangeServer(tmp_path) as server:
        urls = [f"{server.url}/{model.folder.name}/{model.files[0].name}" for model in models]
        with Child(PINNING, tmp_path / "cache", *urls) as child:
            first, later = map(int, child.hear().split())
            assert 0 < first == later, "nothing of it was evicted while it was open"
            child.tell(told)
            assert (int(child.hear()) > 0) == again
            status, _, err = child.finish()
    assert status == 0, err


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_shown_by_path_is_pinned_for_as_long_as_its_model(tmp_path: Path, kept: bool) -> None:
    models = [make(tmp_path / f"model-{number}", seed=number, files=1, large=6) for number in range(6)]
    settings = {**limits(tmp_path), "cache_limit": "64MiB"}
    first = weights.open(models[0].folder, **settings)
    shown = Path(first.path(models[0].files[0].name))
    # Keeps the folder open: its order of use is finer than what is written down at its end, in seconds.
    beside = weights.open(models[1].folder, **settings)
    if not kept:
        first.close()
    for model in models[2:] * 2:
        assert model.is_whole(weights.load_file(model.folder, **settings))
    if kept:
        assert shown.read_bytes() == models[0].files[0].read_bytes()
        assert models[0].is_whole(first.load())
        assert first.stats["origin"] == 0
        first.close()
    assert not shown.exists()
    with weights.open(models[0].folder, **settings) as again:
        again.load()
        assert (again.stats["origin"] == 0) == kept
    beside.close()


def test_tensors_stay_when_their_model_is_evicted(tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    with weights.open(model.folder, **limits(tmp_path)) as opened:
        loaded = opened.load()
        streamed = dict(opened.stream(framework="np"))
        leased = dict(opened.stream(owned=False))
    evicted = program("evict", "--all", "--cache-dir", tmp_path / "cache")
    assert evicted["freed_bytes"] >= model.nbytes
    shutil.rmtree(tmp_path / "cache")
    assert all(model.is_whole(each) for each in (loaded, streamed, leased))


def test_leases_that_are_kept_are_written_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for less than the model: what is let go comes again with other bytes, as reads have come, and nothing else does."""
    monkeypatch.setattr("forebay.weights._model._AHEAD_BYTES", 4 * MIB)
    model = make(tmp_path / "model", large=12)
    kept, large = {}, 0
    for name, array in weights.stream(model.folder, framework="np", owned=False):
        assert model.has(name, array), name
        if array.nbytes < MIB:
            continue
        large += 1
        if large % 9 == 0:
            kept[name] = array
        else:
            array[:] = 0xFF
        del array
    assert len(kept) == 2
    assert all(model.has(name, array) for name, array in kept.items())


@pytest.mark.parametrize("owned", [True, False])
def test_memory_is_let_go_with_the_last_tensor_in_it(tmp_path: Path, owned: bool) -> None:
    model, seen = make(tmp_path / "model"), 0
    with weights.open(model.folder) as opened:
        for name, array in opened.stream(framework="np", owned=owned):
            if opened.info(name).nbytes < MIB:
                continue
            # It has memory of its own.
            root: Any = array
            while isinstance(root.base, np.ndarray):
                root = root.base
            memory = weakref.ref(root)
            del array, root
            assert memory() is None, "before the next tensor is asked for"
            seen += 1
    assert seen > 1


def test_the_program_makes_room_around_an_open_model(tmp_path: Path) -> None:
    """What is asked to go by name goes, and is fetched again."""
    model, cache = make(tmp_path / "model"), ("--cache-dir", tmp_path / "cache")
    with weights.open(model.folder, **limits(tmp_path)) as opened:
        opened.load()
        before = opened.stats["origin"]
        assert program("evict", "--down-to", "4MB", *cache, code=1)["freed_bytes"] < MIB
        assert model.is_whole(opened.load())
        assert opened.stats["origin"] == before
        program("evict", "--all", *cache)
        assert model.is_whole(opened.load())
        assert opened.stats["origin"] > before
    assert program("evict", "--down-to", "4MB", *cache)["freed_bytes"] >= MIB


def test_a_model_larger_than_the_cache_loads_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make(tmp_path / "model", large=5, mib=4)
    with RangeServer(model.folder) as server:
        urls = [f"{server.url}/{path.name}" for path in model.files]
        settings = limits(tmp_path, cache_limit="24MiB")
        for _ in range(2):
            assert model.is_whole(weights.load_file(urls, **settings))
        said = [record.getMessage() for record in caplog.records if "cache_limit" in record.getMessage()]
        assert len(said) == 2, "once for each opening"
        assert re.search(rf"{model.nbytes} bytes, and cache_limit is {24 * MIB}", said[0])
        assert model.is_whole(dict(weights.stream(urls, framework="np", **settings)))
