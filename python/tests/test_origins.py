"""Origins as Python reaches them: a real S3 server, a real HTTP server, and what each can do wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forebay
import pytest
from conftest import SMALL, Dataset, OpenLoader, need_weed, samples_of, urls_of
from faults import SIZE_ASKED, Held, Stall, cut, fail, times_fetched
from servers import RangeServer, SeaweedFS, etag_of


def test_s3_cold_then_warm(s3: SeaweedFS, dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(
        "s3://photos/train-{000000..000002}.tar", fields=SMALL, shuffle=True, storage_options=s3.storage_options
    )
    assert sorted(samples_of(loader)) == dataset.everything
    cold = loader.stats()
    assert sorted(samples_of(loader)) == dataset.everything
    warm = loader.stats().since(cold)
    stored = sum(path.stat().st_size for path in dataset.paths)
    assert stored * 0.99 <= cold.fetched_bytes <= stored * 1.05, "the origin is read once in all"
    assert warm.fetched_bytes == 0


def test_s3_by_glob_and_folder(s3: SeaweedFS, dataset: Dataset, open_loader: OpenLoader) -> None:
    for url in ("s3://photos/train-*.tar", "s3://photos/"):
        assert samples_of(open_loader(url, storage_options=s3.storage_options)) == dataset.everything


def test_an_object_that_is_not_there_is_named(s3: SeaweedFS, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.NotFoundError, match=r"s3://photos/missing\.tar") as caught:
        samples_of(open_loader("s3://photos/missing.tar", storage_options=s3.storage_options))
    assert caught.value.location == "s3://photos/missing.tar"
    with pytest.raises(FileNotFoundError):
        samples_of(open_loader("/nowhere/at-all.tar"))


def test_secrets_are_in_no_error(open_loader: OpenLoader, http: RangeServer) -> None:
    http.answer = lambda handler: handler.plain(403) or True
    secret = "wJalrXUtnFEMI"
    options = {
        "endpoint": http.url,
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "secret_access_key": secret,
        "region": "us-east-1",
        "allow_http": "true",
    }
    with pytest.raises(forebay.PermissionError) as caught:
        samples_of(open_loader("s3://photos/a.tar", storage_options=options))
    assert "credentials" in str(caught.value)
    assert secret not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Iterator[SeaweedFS]:
    """SeaweedFS with one user, and the dataset in the bucket `photos`."""
    need_weed()
    folder = tmp_path_factory.mktemp("guarded")
    user = {
        "name": "user",
        "credentials": [{"accessKey": "right-key", "secretKey": "right-secret"}],
        "actions": ["Admin", "Read", "List", "Write"],
    }
    (folder / "users.json").write_text(json.dumps({"identities": [user]}))
    with SeaweedFS(folder / "data", folder / "users.json") as server:
        for path in dataset.paths:
            server.put_behind("photos", path.name, path)
        yield server


def test_the_right_s3_credentials_are_taken(guarded: SeaweedFS, dataset: Dataset, open_loader: OpenLoader) -> None:
    keys = {"access_key_id": "right-key", "secret_access_key": "right-secret"}
    loader = open_loader("s3://photos/*.tar", storage_options={**guarded.storage_options, **keys})
    assert samples_of(loader) == dataset.everything


def test_a_bucket_that_is_not_there_is_named(s3: SeaweedFS, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.NotFoundError, match="s3://nowhere/"):
        open_loader("s3://nowhere/*.tar", storage_options=s3.storage_options)


@pytest.mark.parametrize(("key", "secret"), [("right-key", "wrong-secret"), ("wrong-key", "right-secret")])
@pytest.mark.parametrize("url", ["s3://photos/train-000000.tar", "s3://photos/*.tar"])
def test_wrong_s3_credentials_are_refused_and_never_shown(
    guarded: SeaweedFS, open_loader: OpenLoader, url: str, key: str, secret: str
) -> None:
    options = {**guarded.storage_options, "access_key_id": key, "secret_access_key": secret}
    with pytest.raises(forebay.PermissionError) as caught:
        samples_of(open_loader(url, storage_options=options))
    chain: BaseException | None = caught.value
    while chain:
        shown = f"{chain} {chain!r}"
        assert "-secret" not in shown
        assert "-key" not in shown
        chain = chain.__cause__ or chain.__context__


def test_http(http: RangeServer, dataset: Dataset, open_loader: OpenLoader) -> None:
    assert samples_of(open_loader(urls_of(http, dataset))) == dataset.everything
    for path in dataset.paths:
        ranges = [request for request in http.requests if request.path[1:] == path.name and request.range != SIZE_ASKED]
        assert ranges
        assert {request.if_match for request in ranges if request.method == "GET"} == {etag_of(path)}


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, forebay.PermissionError), (403, forebay.PermissionError), (404, forebay.NotFoundError)],
)
def test_what_an_origin_refuses(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader, status: int, error: type[Exception]
) -> None:
    http.answer = fail(status)
    with pytest.raises(error, match=r"train-000000\.tar") as caught:
        samples_of(open_loader(urls_of(http, dataset)))
    assert isinstance(caught.value, forebay.Error)
    assert caught.value.location == urls_of(http, dataset)[0]


def test_an_origin_that_fails_for_a_while_is_asked_again(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader
) -> None:
    failures = iter([500, 503])

    def answer(handler: Any) -> bool:
        status = next(failures, None) if handler.command == "GET" else None
        if status:
            handler.plain(status)
        return bool(status)

    http.answer = answer
    assert samples_of(open_loader(urls_of(http, dataset))) == dataset.everything


def test_an_origin_that_goes_on_failing_is_an_error_with_its_answer(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader
) -> None:
    http.answer = fail(500)
    with pytest.raises(forebay.OriginError, match=r"train-000000\.tar.*2 attempts.*500") as caught:
        samples_of(open_loader(urls_of(http, dataset), storage_options={"max_attempts": 2}))
    assert caught.value.location == urls_of(http, dataset)[0]


def test_a_range_that_an_origin_has_no_more_is_a_changed_object(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader
) -> None:
    # The range of one byte by which the size is asked for works.
    http.answer = lambda handler: handler.headers.get("range") != SIZE_ASKED and fail(416)(handler)
    with pytest.raises(forebay.ChangedError, match=r"train-000000\.tar changed"):
        samples_of(open_loader(urls_of(http, dataset)))
    assert set(times_fetched(http).values()) == {1}, "none is tried again"


def test_a_connection_that_is_cut_loses_nothing(http: RangeServer, dataset: Dataset, open_loader: OpenLoader) -> None:
    left = iter(range(3))
    http.answer = lambda handler: handler.command == "GET" and next(left, None) is not None and cut(handler, 100_000)
    assert samples_of(open_loader(urls_of(http, dataset))) == dataset.everything
    assert next(left, None) is None, "three were cut"


def test_connections_that_are_always_cut_are_an_error(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader
) -> None:
    http.answer = lambda handler: handler.headers.get("range") != SIZE_ASKED and cut(handler, 10)
    with pytest.raises(forebay.OriginError, match=r"train-000000\.tar.*2 attempts"):
        samples_of(open_loader(urls_of(http, dataset), storage_options={"max_attempts": 2}))


def test_connections_that_stall_are_an_error_that_says_how_long(
    http: RangeServer, stall: Stall, dataset: Dataset, open_loader: OpenLoader
) -> None:
    with pytest.raises(forebay.StalledError, match=r"train-000000\.tar.*stall_timeout") as caught:
        samples_of(open_loader(urls_of(http, dataset), storage_options={"stall_timeout": "100ms"}))
    assert isinstance(caught.value, forebay.OriginError)


def test_a_connection_that_stalls_is_left_for_another(
    http: RangeServer, stall: Stall, dataset: Dataset, open_loader: OpenLoader
) -> None:
    stalled = http.answer

    def answer(handler: Any) -> bool:
        if not stall.begun.is_set():
            return bool(stalled(handler))
        return False

    http.answer = answer
    loader = open_loader(urls_of(http, dataset), storage_options={"stall_timeout": "100ms"})
    assert samples_of(loader) == dataset.everything
    assert stall.begun.is_set()


def test_a_timeout_without_progress_says_what_was_waited_for(
    http: RangeServer, stall: Stall, dataset: Dataset, open_loader: OpenLoader
) -> None:
    loader = open_loader(urls_of(http, dataset), shuffle=False, timeout=0.2)
    with pytest.raises(forebay.TimeoutError, match=r"no progress for .* s while waiting for .*timeout="):
        samples_of(loader)


def test_the_first_batch_comes_before_the_first_shard_is_down(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader
) -> None:
    """The origin gives the beginning of each answer, and the rest only when the batch has come."""
    assert dataset.paths[0].stat().st_size > 1_100_000
    held = Held(http, after=1_100_000)
    loader = open_loader(urls_of(http, dataset), shuffle=False, batch_size=2, prefetch_factor=1)
    running = iter(loader)
    batches = [next(running)]
    held.release()
    assert not held.gave_up
    batches += running
    assert [sample for batch in batches for sample in batch.samples[: batch.valid]] == dataset.everything


def test_a_shard_that_is_replaced_under_an_epoch_is_named(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path
) -> None:
    folder = tmp_path / "origin"
    folder.mkdir()
    for path in dataset.paths:
        shutil.copy(path, folder)
    with RangeServer(folder) as server:
        # The versions are asked for here.
        loader = open_loader(urls_of(server, dataset), shuffle=False)
        changed = folder / dataset.paths[2].name

        def answer(handler: Any) -> bool:
            # The last shard is replaced when its first byte is asked for.
            if handler.command == "GET" and handler.path.endswith(changed.name):
                shutil.copy(dataset.paths[0], changed)
                os.utime(changed, ns=(1, 1))
                server.answer = None
            return False

        server.answer = answer
        with pytest.raises(forebay.ChangedError, match=r"train-000002\.tar.*changed") as caught:
            samples_of(loader)
        assert isinstance(caught.value, forebay.OriginError)


def test_a_cached_dataset_is_served_while_the_origin_is_down(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path
) -> None:
    with RangeServer(dataset.paths[0].parent) as server:
        urls = urls_of(server, dataset)
        first = open_loader(urls, shuffle=True)
        epoch = samples_of(first)
        first.close()
    second = open_loader(urls, shuffle=True)
    assert samples_of(second) == epoch
    assert second.stats().offline
    assert "offline" in repr(second.stats())
