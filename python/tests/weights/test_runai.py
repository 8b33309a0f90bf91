"""The interface of runai_model_streamer beside the package itself: the same calls, on local files and in a real S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import forebay
import forebay.integrations.runai as ours
import forebay.weights
import numpy as np
import pytest
import torch
from differential import assert_same, outcome
from servers import RangeServer, SeaweedFS
from written import BITS, Tensor, bits, raw, tensor, write

theirs = pytest.importorskip("runai_model_streamer", reason="the wheel runai-model-streamer is not installed here")
"""There are wheels for Linux with glibc 2.30 and newer only."""

DTYPES = [dtype for dtype in BITS if dtype not in ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")]
"""What the package reads; it refuses whole files for the others."""


def shard(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    shapes = [(), (3,), (4, 5), (0, 2), (2, 3, 4), (1000, 7)]
    return {
        f"{seed}.{number}": tensor(rng, str(rng.choice(DTYPES)), shapes[number % len(shapes)]) for number in range(20)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files with tensors, one without, and what else lies in a model's folder."""
    folder = tmp_path_factory.mktemp("model")
    for seed in range(3):
        write(folder / f"model-{seed}.safetensors", shard(seed), {"format": "pt"})
    write(folder / "none.safetensors", {})
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_bytes(bytes(3_000_000))
    write(folder / "tokenizer" / "below.safetensors", {})
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_CACHE_DIR", str(tmp_path / "cache"))


def described(streamer: Any) -> dict[int, list[Any]]:
    """What a streamer says of its files. Where tensors without bytes lie among others is left to chance by the package."""
    said = {
        place: [
            (each.offsets.start, each.offsets.end, each.name, each.shape, each.dtype, each.get_bytesize(), each.get_item_count(),
             each.get_element_size(), each.get_torch_dtype())
            for each in tensors
        ]
        for place, tensors in streamer.files_to_tensors_metadata.items()
    }  # fmt: skip
    return {place: sorted(tensors, key=lambda each: each[:3]) for place, tensors in said.items()}


def streamed(module: ModuleType, paths: Any, **arguments: Any) -> Any:
    """What the files hold, by that library. Order is compared by nobody: theirs is as bytes arrive."""
    with module.SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **arguments)
        tensors = {name: bits(each) for name, each in streamer.get_tensors()}
        return described(streamer), streamer.total_size, sorted(tensors.items())


def files(folder: Path) -> list[str]:
    return [
        str(folder / name)
        for name in ("model-2.safetensors", "none.safetensors", "model-0.safetensors", "model-1.safetensors")
    ]


CALLS: dict[str, Callable[[ModuleType, Path], Any]] = {
    "one file": lambda module, folder: streamed(module, files(folder)[:1]),
    "all files": lambda module, folder: streamed(module, files(folder)),
    "a file without tensors": lambda module, folder: streamed(module, files(folder)[1:2]),
    "no file": lambda module, _: streamed(module, []),
    "some names": lambda module, folder: streamed(module, files(folder), tensor_names=["0.1", "2.19", "0.3", "0.1"]),
    "names of one file only": lambda module, folder: streamed(module, files(folder), tensor_names={"1.4"}),
    "no name": lambda module, folder: streamed(module, files(folder), tensor_names=[]),
    "a name that none has": lambda module, folder: streamed(module, files(folder), tensor_names=["0.1", "none"]),
    "a string for names": lambda module, folder: streamed(module, files(folder), tensor_names="0.1"),
    "a device by name": lambda module, folder: streamed(module, files(folder), device="cpu"),
    "a device of torch": lambda module, folder: streamed(module, files(folder), device=torch.device("cpu")),
    "no device": lambda module, folder: streamed(module, files(folder), device=None),
    "distributed": lambda module, folder: streamed(module, files(folder), is_distributed=True),
    "not owned": lambda module, folder: streamed(module, files(folder), owned=False),
    "everything by position": lambda module, folder: by_position(module, files(folder)),
    "a file by itself": lambda module, folder: by_itself(module, files(folder)[0]),
    "not opened": lambda module, folder: list(module.SafetensorsStreamer().get_tensors()),
    "not opened, and a file": lambda module, folder: module.SafetensorsStreamer().stream_file(files(folder)[0]),
    "closed": lambda module, folder: closed(module).stream_file(files(folder)[0]),
    "nothing asked for": lambda module, _: nothing(module),
    "a pull of a local folder": lambda module, folder: module.pull_files(str(folder), str(folder / "copy")),
    "files of a folder": lambda module, folder: sorted(module.list_safetensors(str(folder))),
    "files of a folder with a slash": lambda module, folder: sorted(module.list_safetensors(f"{folder}/")),
    "files of no folder": lambda module, folder: module.list_safetensors(str(folder / "nowhere")),
    "files of a file": lambda module, folder: module.list_safetensors(files(folder)[0]),
}


def by_position(module: ModuleType, paths: list[str]) -> Any:
    with module.SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, None, "cpu", False, ["0.1"], True)
        return [(name, bits(each)) for name, each in streamer.get_tensors()]


def by_itself(module: ModuleType, path: str) -> Any:
    """Twice by one streamer; tensors are there once each time."""
    with module.SafetensorsStreamer() as streamer:
        answers = []
        for names in (None, ["2.4"]):
            streamer.stream_file(path, None, "cpu", False, names)
            answers.append((described(streamer), sorted((name, bits(each)) for name, each in streamer.get_tensors())))
            answers.append(list(streamer.get_tensors()))
        return answers


def closed(module: ModuleType) -> Any:
    with module.SafetensorsStreamer() as streamer:
        return streamer


def nothing(module: ModuleType) -> Any:
    with module.SafetensorsStreamer() as streamer:
        return list(streamer.get_tensors()), streamer.files_to_tensors_metadata


@pytest.mark.parametrize("name", CALLS)
def test_local_files(folder: Path, name: str) -> None:
    call = CALLS[name]
    assert_same(outcome(lambda: call(ours, folder)), outcome(lambda: call(theirs, folder)), name)


@pytest.mark.parametrize("header", ["{nope}", '{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'])
def test_bad_files(tmp_path: Path, header: str) -> None:
    path = raw(tmp_path / "bad.safetensors", header, bytes(12))
    assert_same(outcome(lambda: streamed(ours, [str(path)])), outcome(lambda: streamed(theirs, [str(path)])), header)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        streamed(ours, [str(tmp_path / "none.safetensors")])


def test_tensors_come_in_order_and_are_kept(folder: Path) -> None:
    with ours.SafetensorsStreamer() as streamer:
        streamer.stream_files(files(folder))
        kept = list(streamer.get_tensors())
        names = [each.name for tensors in streamer.files_to_tensors_metadata.values() for each in tensors]
    assert [name for name, _ in kept] == names
    expected = {name: each.data for seed in range(3) for name, each in shard(seed).items()}
    assert {name: bits(each)[-1] for name, each in kept} == expected


def test_a_stream_that_is_left_is_replaced_by_the_next(folder: Path) -> None:
    with ours.SafetensorsStreamer() as streamer:
        streamer.stream_files(files(folder))
        tensors = streamer.get_tensors()
        next(tensors)
        streamer.stream_file(files(folder)[2], tensor_names=["0.2"])
        assert [name for name, _ in streamer.get_tensors()] == ["0.2"]
        assert [each.name for each in streamer.files_to_tensors_metadata[0]] == ["0.2"]
        assert streamer.total_size == len(shard(0)["0.2"].data)


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        paths.append(str(write(tmp_path / str(number) / "model.safetensors", shard(number))))
    assert streamed(ours, paths) == streamed(theirs, paths)


def test_local_and_remote_files_together(folder: Path) -> None:
    with RangeServer(folder) as server:
        mixed = [f"{server.url}/model-2.safetensors", folder / "none.safetensors", *files(folder)[2:]]
        assert streamed(ours, mixed) == streamed(theirs, files(folder))


def test_a_tensor_that_two_files_have_is_refused(tmp_path: Path) -> None:
    """Theirs gives both, one after the other, in no order."""
    paths = [str(write(tmp_path / name, shard(1))) for name in ("a.safetensors", "b.safetensors")]
    with pytest.raises(forebay.weights.SafetensorError, match=r"1\.\d+.*[ab]\.safetensors"):
        streamed(ours, paths)


def test_paths_are_a_list(folder: Path) -> None:
    with ours.SafetensorsStreamer() as streamer, pytest.raises(forebay.ConfigError, match="stream_file"):
        streamer.stream_files(files(folder)[0])


def test_a_memory_limit_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("-1", "0", "1000000000"):
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        assert streamed(ours, files(folder)) == streamed(theirs, files(folder))
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "much")
    with pytest.raises(forebay.ConfigError, match="RUNAI_STREAMER_MEMORY_LIMIT"):
        ours.SafetensorsStreamer()


# In a bucket.


@pytest.fixture
def bucket(s3: SeaweedFS, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder's URL in S3, which the environment says how to reach."""
    pytest.importorskip("runai_model_streamer_s3", reason="the wheel runai-model-streamer-s3 is not installed here")
    s3.make_bucket("models")
    for path in folder.rglob("*"):
        if path.is_file():
            s3.put("models", f"family/llama/{path.relative_to(folder)}", path)
    s3.put("models", "family/llama-2/other.safetensors", b"of another folder, whose name begins as this one's does")
    for name, value in {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": s3.region,
        "AWS_REGION": s3.region,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return "s3://models/family/llama"


def test_a_bucket_s_files(bucket: str) -> None:
    for url in (
        bucket,
        f"{bucket}/",
        f"{bucket}/tokenizer",
        f"{bucket}/nothing",
        "s3://models",
        f"{bucket}/none.safetensors",
    ):
        listed = ours.list_safetensors(url)
        assert listed == theirs.list_safetensors(url), url
    assert streamed(ours, ours.list_safetensors(bucket)) == streamed(theirs, theirs.list_safetensors(bucket))


def test_a_bucket_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    for call in (ours.list_safetensors, lambda url: ours.pull_files(url, tmp_path / "copy")):
        with pytest.raises(forebay.NotFoundError, match="s3://nowhere/"):
            call("s3://nowhere/llama")
    assert not (tmp_path / "copy").exists()


def test_a_memory_limit_holds(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "1000")
    with pytest.raises(forebay.ConfigError, match="1000"):
        streamed(ours, ours.list_safetensors(bucket))


def test_some_tensors_of_a_bucket(bucket: str) -> None:
    paths = ours.list_safetensors(bucket)
    assert streamed(ours, paths, tensor_names=["1.3", "2.4"]) == streamed(theirs, paths, tensor_names=["1.3", "2.4"])


@pytest.mark.parametrize(
    "patterns",
    [
        {},
        {"allow_pattern": ["*.json"]},
        {"allow_pattern": ["*.json"], "ignore_pattern": ["*config.json"]},
        {"allow_pattern": ["family/llama/m*"]},
        {"allow_pattern": ["config.json"]},
        {"allow_pattern": []},
        {"ignore_pattern": ["*.safetensors"]},
        {"ignore_pattern": ["*/tokenizer/*", "*-[01].*"]},
    ],
)
def test_a_pull(bucket: str, tmp_path: Path, patterns: dict[str, list[str]]) -> None:
    for module, name in ((ours, "ours"), (theirs, "theirs")):
        module.pull_files(bucket, str(tmp_path / name), **patterns)
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")


def test_a_pull_replaces_what_is_there(bucket: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("an older one, and longer")
    ours.pull_files(bucket, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(folder)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What S3 is asked, as a server sees it.


@pytest.fixture
def asked(http: RangeServer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Requests to a server that has nothing."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    requests: list[Any] = []
    http.answer = lambda handler: requests.append((handler.path, dict(handler.headers))) or handler.plain(404) or True
    return requests


def test_credentials_are_the_requests_credentials(http: RangeServer, asked: list[Any]) -> None:
    keys = ours.S3Credentials("the-key", "the-secret", "the-token", "eu-west-9", http.url)
    with pytest.raises(forebay.Error):
        ours.list_safetensors("s3://models/llama", keys)
    with ours.SafetensorsStreamer() as streamer, pytest.raises(forebay.NotFoundError):
        streamer.stream_file("s3://models/llama/a.safetensors", keys)
    assert len(asked) >= 2
    for _, headers in asked:
        assert "Credential=the-key/" in headers["authorization"]
        assert "/eu-west-9/s3/" in headers["authorization"]
        assert headers["x-amz-security-token"] == "the-token"
        assert "the-secret" not in str(headers)


@pytest.mark.parametrize(
    ("setting", "url"),
    [("0", "http://s3.test/models"), ("1", "http://models.s3.test/"), (None, "http://s3.test/models")],
)
def test_buckets_in_host_names(
    http: RangeServer, asked: list[Any], monkeypatch: pytest.MonkeyPatch, setting: str | None, url: str
) -> None:
    monkeypatch.delenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", raising=False)
    if setting is not None:
        monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", setting)
    options = {"endpoint": "http://s3.test", "proxy_url": http.url}
    with pytest.raises(forebay.Error):
        ours.list_safetensors("s3://models/llama", storage_options=options)
    assert asked
    assert all(path.startswith(url) for path, _ in asked), asked


def test_unsigned_requests(http: RangeServer, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    with pytest.raises(forebay.Error):
        ours.list_safetensors("s3://models/llama", storage_options={"endpoint": http.url})
    assert asked
    assert all("authorization" not in {name.lower() for name in headers} for _, headers in asked)


def test_names_that_leave_the_folder_are_not_written(http: RangeServer, tmp_path: Path) -> None:
    body = (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>models</Name><Prefix>llama/</Prefix>'
        "<KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents><Key>llama/../../outside</Key>"
        '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag><Size>3</Size></Contents></ListBucketResult>'
    )

    def listing(handler: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())
        return True

    http.answer = listing
    with pytest.raises(forebay.Error):
        ours.pull_files("s3://models/llama", tmp_path / "a" / "b", storage_options={"endpoint": http.url})
    assert not (tmp_path / "outside").exists()
    assert not list(tmp_path.rglob("*outside*"))
