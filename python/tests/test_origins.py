"""Origins as Python reaches them: a real S3 server, a real HTTP server, and what each can do wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import forebay
import pytest
from conftest import SMALL, Dataset, OpenLoader, samples_of
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


def urls_of(server: RangeServer, dataset: Dataset) -> list[str]:
    return [f"{server.url}/{path.name}" for path in dataset.paths]


def test_http(http: RangeServer, dataset: Dataset, open_loader: OpenLoader) -> None:
    assert samples_of(open_loader(urls_of(http, dataset))) == dataset.everything
    assert any(wanted for _, _, wanted in http.requests), "by ranges"


def fail(status: int) -> Any:
    def answer(handler: Any) -> bool:
        handler.plain(status)
        return True

    return answer


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


def test_a_connection_that_is_cut_loses_nothing(http: RangeServer, dataset: Dataset, open_loader: OpenLoader) -> None:
    cut: list[str] = []

    def answer(handler: Any) -> bool:
        if handler.command != "GET" or len(cut) > 2:
            return False
        cut.append(handler.path)
        path = handler.folder / handler.path.lstrip("/")
        data = path.read_bytes()
        wanted = handler.headers.get("range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        part = data[int(first) : int(last or len(data) - 1) + 1]
        handler.send_response(206)
        handler.send_header("etag", etag_of(path))
        handler.send_header("content-length", str(len(part)))
        handler.send_header("content-range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(part[: len(part) // 2])
        handler.wfile.flush()
        handler.close_connection = True
        return True

    http.answer = answer
    assert samples_of(open_loader(urls_of(http, dataset))) == dataset.everything
    assert cut


def test_a_shard_that_is_replaced_under_an_epoch_is_named(
    dataset: Dataset, open_loader: OpenLoader, tmp_path: Path
) -> None:
    folder = tmp_path / "origin"
    folder.mkdir()
    for path in dataset.paths:
        shutil.copy(path, folder)
    with RangeServer(folder) as server:
        loader = open_loader(urls_of(server, dataset), shuffle=True)
        loader.count()
        loader.close()
        # Known by its old version; the cache that held its bytes is gone, the counts are not asked for again.
        loader = open_loader(urls_of(server, dataset), shuffle=False, cache_dir=tmp_path / "other")
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
