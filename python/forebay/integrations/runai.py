"""The interface of `runai_model_streamer` 0.17 over Forebay's cache: code written for it runs with the import changed.

    from forebay.integrations.runai import SafetensorsStreamer, list_safetensors

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list_safetensors("s3://models/llama/"), device="cuda:0")
        for name, tensor in streamer.get_tensors():
            parameters[name].copy_(tensor)

Tensors come in the order of the files and of the bytes in them, each in memory of its own. Neither torch nor numpy is
needed to import this module.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from forebay import _forebay, weights
from forebay._errors import ConfigError, StateError
from forebay._loader import _storage_options
from forebay.weights._frameworks import Torch

__all__ = ["Offsets", "S3Credentials", "SafetensorsStreamer", "TensorMetadata", "list_safetensors", "pull_files"]

_STORES = ("s3://", "gs://", "az://")


@dataclass
class S3Credentials:
    """Keys for S3. Any object with these attributes does, also `runai_model_streamer`'s own; what is None is found as usual."""

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region_name: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Offsets:
    """Where a tensor lies, in bytes from the end of its file's header."""

    start: int
    end: int

    def get_diff(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class TensorMetadata:
    """One tensor, as its file's header describes it."""

    name: str
    shape: list[int]
    dtype: str
    """safetensors' name: "BF16"."""
    offsets: Offsets

    def get_bytesize(self) -> int:
        return self.offsets.get_diff()

    def get_item_count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def get_element_size(self) -> int:
        """Bytes of an element of `get_torch_dtype()`."""
        return int(self.get_torch_dtype().itemsize)

    def get_torch_dtype(self) -> Any:
        return Torch().dtype(self.dtype)[0]


class SafetensorsStreamer:
    """Streams the tensors of safetensors files, local or remote: `stream_files`, then `get_tensors`.

    Its own arguments are Forebay's, and may all be left out:
        cache_dir, cache_limit, storage_options: As for `forebay.weights.open`.
        host_memory_limit: Most bytes of memory for data on its way. Default: RUNAI_STREAMER_MEMORY_LIMIT where that
            says how much, or "2GB".
    """

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_limit: int | str = "20GB",
        host_memory_limit: int | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._storage_options = dict(storage_options or {})
        self._cache = {"cache_dir": cache_dir, "cache_limit": cache_limit}
        self._memory_limit = _memory_limit() if host_memory_limit is None else host_memory_limit
        self._inside = False
        self._opened: weights.Weights | None = None
        self._tensors: Iterator[tuple[str, Any]] | None = None
        self.files_to_tensors_metadata: dict[int, list[TensorMetadata]] = {}
        """What `get_tensors` gives of each file, by the file's place in the list."""
        self.total_size = 0
        """Bytes of all those tensors."""

    def __enter__(self) -> SafetensorsStreamer:
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        self._end()

    def stream_file(
        self,
        path: str | os.PathLike[str],
        s3_credentials: Any = None,
        device: Any = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """As `stream_files`, of one file."""
        self.stream_files([path], s3_credentials, device, is_distributed, tensor_names, owned)

    def stream_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        s3_credentials: Any = None,
        device: Any = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """Reads the files' headers and fills `files_to_tensors_metadata`; `get_tensors` reads the rest.

        paths: Files: local paths and URLs.
        s3_credentials: `S3Credentials`; they go before `storage_options` and the environment.
        device: As for `forebay.weights.stream`; None is "cpu".
        is_distributed: Every rank gets every tensor either way, and reads them itself: of what is remote the node's cache folder
            fetches one copy for all its ranks. Nothing is broadcast, so no process group is needed.
        tensor_names: Only these; names that no file has, or two have, are an error.
        owned: False gives tensors over memory that is used again once they are dropped.
        """
        if not self._inside:
            raise StateError("the streamer is not open: use it as `with SafetensorsStreamer() as streamer:`")
        names = _names(tensor_names)
        if isinstance(paths, (str, os.PathLike)):
            raise ConfigError(f"paths={paths!r}: give a list of files, or call stream_file")
        self._end()
        if not paths:
            return
        options = {**self._storage_options, **_s3_options(paths, s3_credentials)}
        self._opened = opened = weights.open(
            list(paths), host_memory_limit=self._memory_limit, storage_options=options, **self._cache
        )
        try:
            self.files_to_tensors_metadata = _described(opened, names)
        except BaseException:
            self._end()
            raise
        kept = [tensor for tensors in self.files_to_tensors_metadata.values() for tensor in tensors]
        self.total_size = sum(tensor.get_bytesize() for tensor in kept)
        device = "cpu" if device is None else device
        self._tensors = opened.stream([tensor.name for tensor in kept], device=device, owned=owned)

    def get_tensors(self) -> Iterator[tuple[str, Any]]:
        """Names and torch tensors of what was last asked for, once."""
        if not self._inside:
            raise StateError("the streamer is not open: use it as `with SafetensorsStreamer() as streamer:`")
        tensors, self._tensors = self._tensors, None
        yield from tensors or ()

    def _end(self) -> None:
        opened, self._opened, self._tensors = self._opened, None, None
        self.files_to_tensors_metadata, self.total_size = {}, 0
        if opened is not None:
            opened.close()


def list_safetensors(
    path: str, s3_credentials: Any = None, *, storage_options: Mapping[str, Any] | None = None
) -> list[str]:
    """The `*.safetensors` files of a folder, not of those below it, by name; none where nothing is."""
    if not _is_remote(path):
        return sorted(glob.glob(os.path.join(glob.escape(path), "*.safetensors")))
    folder = path.rstrip("/") + "/"
    options = _options(storage_options, [path], s3_credentials)
    names = (url.removeprefix(folder) for url in _forebay.list_objects(folder, options))
    return [folder + name for name in names if "/" not in name and name.endswith(".safetensors")]


def pull_files(
    model_path: str,
    dst: str | os.PathLike[str],
    allow_pattern: list[str] | None = None,
    ignore_pattern: list[str] | None = None,
    s3_credentials: Any = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Copies a remote folder and all below it to the local folder `dst`, each file whole or not at all.

    allow_pattern, ignore_pattern: Shell patterns of keys, from the bucket on: "*.json" is any JSON file, "llama/*" all of
        one folder.
    """
    if not _is_remote(model_path):
        # The class that theirs raises: programs catch it to tell local models from remote ones.
        raise NotImplementedError(
            f"{model_path} is a local path: there is nothing to pull; give a URL such as s3://models/llama/"
        )
    folder = model_path.rstrip("/") + "/"
    options = _options(storage_options, [model_path], s3_credentials)
    copies = []
    for url in _forebay.list_objects(folder, options):
        key = url.split("://", 1)[1].partition("/")[2]
        allowed = allow_pattern is None or any(fnmatch.fnmatch(key, pattern) for pattern in allow_pattern)
        if allowed and not any(fnmatch.fnmatch(key, pattern) for pattern in ignore_pattern or ()):
            copies.append((url, _inside(dst, url.removeprefix(folder))))
    for _, file in copies:
        file.parent.mkdir(parents=True, exist_ok=True)
    _forebay.copy_objects([(url, str(file)) for url, file in copies], options)


def _is_remote(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).startswith(_STORES)


def _inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Where an object of this name goes, which is nowhere outside."""
    file = Path(os.path.realpath(os.path.join(folder, name)))
    if not file.is_relative_to(os.path.realpath(folder)):
        raise ConfigError(f"{name!r} would be written outside {os.fspath(folder)!r}; nothing was copied")
    return file


def _names(names: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise ConfigError(f"tensor_names={names!r}: give a list of names")
    if names is not None and not names:
        raise ConfigError("tensor_names is empty: give None for every tensor")
    return None if names is None else frozenset(names)


def _described(opened: weights.Weights, names: frozenset[str] | None) -> dict[int, list[TensorMetadata]]:
    """The tensors of each file that are asked for, by the file's place."""
    place = {file.name: number for number, file in enumerate(opened.files)}
    every = [opened.info(name) for name in opened]
    # Tensors fill a file from its header on, without holes, and come in the order of their bytes.
    begins: dict[str, int] = {}
    for info in every:
        begins.setdefault(info.file, info.offset)
    described: dict[int, list[TensorMetadata]] = {number: [] for number in place.values()}
    for info in every:
        if names is None or info.name in names:
            start = info.offset - begins[info.file]
            offsets = Offsets(start, start + info.nbytes)
            described[place[info.file]].append(TensorMetadata(info.name, list(info.shape), info.dtype, offsets))
    if names is not None and (missing := names - {info.name for info in every}):
        raise ConfigError(f"tensor_names: no file has {sorted(missing)}")
    return described


def _options(given: Mapping[str, Any] | None, paths: Sequence[Any], credentials: Any) -> dict[str, str]:
    return {**_storage_options(given), **_s3_options(paths, credentials)}


def _s3_options(paths: Sequence[Any], credentials: Any) -> dict[str, str]:
    """What credentials and `runai_model_streamer`'s own variables say, as `storage_options`."""
    if not any(os.fspath(path).startswith("s3://") for path in paths):
        return {}
    names = {
        "access_key_id": "access_key_id",
        "secret_access_key": "secret_access_key",
        "session_token": "session_token",
        "region_name": "region",
        "endpoint": "endpoint",
    }
    given = {option: getattr(credentials, name, None) for name, option in names.items()}
    options = {option: str(value) for option, value in given.items() if value is not None}
    virtual = os.environ.get("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING")
    if virtual is not None:
        options["virtual_hosted_style_request"] = "false" if virtual == "0" else "true"
    if os.environ.get("RUNAI_STREAMER_S3_UNSIGNED") == "1":
        options["skip_signature"] = "true"
    return options


def _memory_limit() -> int | str:
    """RUNAI_STREAMER_MEMORY_LIMIT, where it is a number of bytes. Its -1 (the whole model) and 0 (the largest tensor) set no
    limit here, where neither has to be held whole."""
    text = os.environ.get("RUNAI_STREAMER_MEMORY_LIMIT", "-1")
    try:
        limit = int(text)
    except ValueError:
        raise ConfigError(f"RUNAI_STREAMER_MEMORY_LIMIT={text!r}: it is a number of bytes, -1 or 0") from None
    return limit if limit > 0 else "2GB"
