"""`Weights`: an open model, and the calls that open one for a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from forebay import _forebay, _sizes
from forebay._errors import ConfigError
from forebay._frozen import boolean
from forebay._loader import _cache_dir, _say_notices, _storage_options
from forebay.weights import _mapped, _parallel, _places
from forebay.weights._frameworks import framework as framework_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Source: TypeAlias = str | os.PathLike[str]
    Part: TypeAlias = list[tuple[int, int]]
    Plan: TypeAlias = (
        Mapping[str, tuple[int, int, int]] | Callable[[str, tuple[int, ...], str], tuple[int, int, int] | None]
    )

_AHEAD_BYTES = 256 << 20
"""How far `stream` reads ahead of whoever takes its tensors."""
_ALL = 2**62


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies."""

    name: str
    dtype: str
    """safetensors' name: "BF16"."""
    shape: tuple[int, ...]
    nbytes: int
    file: str
    """The name of its file."""
    offset: int
    """Its first byte in the file."""


@dataclass(frozen=True)
class Fetched:
    """What `Weights.prefetch` brought into the cache."""

    files: int
    nbytes: int
    present_blocks: int
    """Blocks that were there already."""
    stored_blocks: int
    """Blocks that were fetched."""
    declined_blocks: int
    """Blocks that found no room, or a disk that fails: read from the origin when they are needed."""


@dataclass(frozen=True)
class BadBlock:
    """A part of a cached file that was not what was stored. It is never delivered."""

    file: str
    offset: int
    nbytes: int
    mended: bool
    """It was fetched again; where not, that is done when it is read."""


@dataclass(frozen=True)
class Checked:
    """What `Weights.verify` found."""

    checked_bytes: int
    """Bytes in the cache that are what was stored."""
    fetched_bytes: int
    """Bytes that were not cached, or bad, and have been fetched."""
    declined_bytes: int
    """Bytes that found no room in the cache."""
    read_bytes: int
    """Bytes of local files that could be read: they have no checksums."""
    bad: list[BadBlock]


@dataclass(frozen=True)
class File:
    """A file of a model, of one version."""

    name: str
    """In its folder; of files of several folders whose names are the same, the URL."""
    url: str
    nbytes: int
    version: str
    """Changes with every byte of the file."""


class Weights:
    """A model of one version: what its files were when it was opened is what is read, or a `ChangedError`.

    While it is open nothing of it is evicted from the cache. Made by `forebay.weights.open`.
    """

    def __init__(
        self,
        url: Source | Iterable[Source],
        *,
        cache_dir: Source | None = None,
        cache_limit: int | str = "20GB",
        host_memory_limit: int | str = "2GB",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._core = _forebay.Weights(
            _urls(url),
            cache_dir=_cache_dir(cache_dir),
            cache_limit=_sizes.parse("cache_limit", cache_limit),
            host_memory_limit=_sizes.parse("host_memory_limit", host_memory_limit),
            storage_options=_storage_options(storage_options),
            cache_local=cache_dir is not None,
        )
        self.files: list[File] = [File(*row) for row in self._core.files()]
        """Its files, in their order."""
        self._names, self._dtypes, self._shapes, self._nbytes, self._files, self._offsets = self._core.tensors()
        self._numbers = dict(zip(self._names, range(len(self._names)), strict=True))
        _say_notices()

    def keys(self) -> list[str]:
        """Names of its tensors, in the order of files and of bytes in them."""
        return list(self._names)

    def __len__(self) -> int:
        """How many tensors it has."""
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies; a KeyError where there is none of this name."""
        return self._info(self._numbers[name])

    def _info(self, number: int) -> TensorInfo:
        # Made when it is asked for: of most tensors nobody does.
        file = self.files[self._files[number]].name
        return TensorInfo(
            self._names[number],
            self._dtypes[number],
            self._shapes[number],
            self._nbytes[number],
            file,
            self._offsets[number],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self._nbytes)

    def metadata(self, file: str | None = None) -> dict[str, str]:
        """What stands beside a file's tensors; without a name, of all files, the first one's word counting."""
        if file is not None and all(each.name != file for each in self.files):
            raise KeyError(file)
        return self._metadata(file) or {}

    def _metadata(self, file: str | None = None) -> dict[str, str] | None:
        """The same, or None where no header has a place for it."""
        found: dict[str, str] | None = None
        for number, each in enumerate(self.files):
            if (file is None or each.name == file) and (said := self._core.metadata(number)) is not None:
                found = {**said, **(found or {})}
        return found

    def stream(
        self,
        names: Iterable[str] | None = None,
        *,
        device: Any = "cpu",
        framework: str = "pt",
        slices: Plan | None = None,
        owned: bool = True,
        gpu_memory_limit: int | str | None = None,
        mmap: bool = False,
    ) -> Iterator[tuple[str, Any]]:
        """Tensors as they arrive, with their names, in the order of files and of bytes in them.

        Args:
            names: Those that are wanted. Default: all.
            device: Where they go: "cpu", "cuda", "cuda:1", a GPU's number, a torch.device.
            framework: "pt" for torch tensors, "np" for numpy arrays, "dlpack" for `forebay.DeviceArray`s on a GPU.
            slices: Of which tensors a part is wanted: {name: (dimension, rank, world)}, or a function of (name, shape, dtype)
                that gives that or None. Rank r of w gets the indexes from r*n//w to (r+1)*n//w of a dimension of n. Of
                contiguous rows only their own bytes are read.
            owned: False gives leases: tensors whose memory is used again once they are let go, on a GPU behind what is queued
                then on the stream that took them. For tensors that are copied somewhere and dropped.
            gpu_memory_limit: With owned=False or "dlpack", most bytes of the GPU's memory for them, taken at once. Default:
                what all of them take.
            mmap: True gives tensors over the files themselves, mapped into host memory: nothing is copied, and bytes are read as
                they are touched. A cached file is brought into the cache whole, checked once, and stays there as long as a tensor
                of it lives; a local one must not be changed meanwhile. Writing to a tensor changes memory of this process and
                never the file. Of cached files a forked child has no tensors: touching one ends it.

        Tensors are the caller's: C-contiguous, writable, never overwritten. Neighbours of less than 1 MiB may share up to 8
        MiB of memory, freed with the last of them.
        """
        return self._stream(names, device, framework, slices, owned, gpu_memory_limit, _AHEAD_BYTES, mmap)

    def load(
        self,
        names: Iterable[str] | None = None,
        *,
        device: Any = "cpu",
        framework: str = "pt",
        slices: Plan | None = None,
        owned: bool = True,
        gpu_memory_limit: int | str | None = None,
        mmap: bool = False,
    ) -> dict[str, Any]:
        """All that `stream` gives, by name."""
        return dict(self._stream(names, device, framework, slices, owned, gpu_memory_limit, _ALL, mmap))

    def get_tensor(self, name: str, *, device: Any = "cpu", framework: str = "pt", mmap: bool = False) -> Any:
        """One tensor; a KeyError where there is none of this name."""
        return self.load([name], device=device, framework=framework, mmap=mmap)[name]

    def path(self, name: str) -> str:
        """A file of the model's folder (its weights, a tokenizer, a compile cache), by its name there or in `files`, as a
        plain file that any program can open.

        A local file is itself. One that goes through the cache is brought there whole and checked; it has its own name, can't be
        written to, and is there until this is closed. Raises `NotFoundError` where there is none.
        """
        return os.fspath(self._core.path(name))

    def prefetch(self, *, weights_only: bool = False) -> Fetched:
        """Brings all files of the model into the cache: the weights and, of a folder, also tokenizers, configurations, compile
        caches: every file that is no pickle. Local files that are read where they lie are left alone."""
        return Fetched(*self._core.prefetch(weights_only))

    def verify(self) -> Checked:
        """Rereads every byte of the weights in the cache and compares its checksums; what is bad or missing there is fetched."""
        bytes_, bad = self._core.verify()
        return Checked(*bytes_, [BadBlock(*row) for row in bad])

    def _stream(
        self,
        names: Iterable[str] | None,
        device: Any,
        framework: str,
        slices: Plan | None,
        owned: bool,
        gpu_memory_limit: int | str | None,
        ahead: int,
        mmap: bool,
    ) -> Iterator[tuple[str, Any]]:
        if isinstance(names, str):
            raise ConfigError(f"names={names!r}: give a list of names, such as [{names!r}]")
        numbers = range(len(self)) if names is None else [self._numbers[name] for name in names]
        parts: list[Part | None] = [None] * len(numbers)
        if slices is not None:
            parts = _parallel.parts(slices, map(self._info, numbers), self._numbers)
        limit = None if gpu_memory_limit is None else _sizes.parse("gpu_memory_limit", gpu_memory_limit)
        kind = framework_named(framework)
        place = _places.device_named(device)
        wanted = list(zip(numbers, parts, strict=True))
        if mmap:
            _mapped.check(kind, place, limit)
            ordered = ((self._info(number), part) for number, part in sorted(wanted, key=lambda each: each[0]))
            return _mapped.tensors(ordered, kind, self._map, lambda name, part: self._part(name, part, kind, device))
        groups = _places.groups(
            self._core,
            wanted,
            kind,
            place,
            owned=boolean("owned", owned),
            gpu_memory_limit=limit,
            ahead=ahead,
        )
        return self._tensors(groups, wanted, kind)

    def _tensors(
        self,
        groups: Iterator[tuple[Any, list[tuple[int, int, int]]]],
        wanted: list[tuple[int, Part | None]],
        kind: Any,
    ) -> Iterator[tuple[str, Any]]:
        try:
            for base, members in groups:
                tensor = kind.tensors(base)
                del base
                for place, (want, offset, nbytes) in enumerate(members, 1):
                    number, part = wanted[want]
                    shape = self._shapes[number] if part is None else tuple(stop - start for start, stop in part)
                    made = [tensor(offset, nbytes, self._dtypes[number], shape)]
                    if place == len(members):
                        # Who lets the last one go lets the memory go: nothing here holds it.
                        del tensor
                    yield self._names[number], made.pop()
        finally:
            groups.close()  # type: ignore[attr-defined] # A generator.
            _say_notices()

    def _map(self, file: str) -> Any:
        """A file's bytes, mapped."""
        return self._core.map(next(number for number, each in enumerate(self.files) if each.name == file))

    def _part(self, name: str, part: Part, kind: Any, device: Any) -> Any:
        """A range of indexes of each dimension."""
        wanted: list[tuple[int, Part | None]] = [(self._numbers[name], part)]
        groups = _places.groups(
            self._core,
            wanted,
            kind,
            _places.device_named(device),
            owned=True,
            gpu_memory_limit=None,
            ahead=_ALL,
        )
        return next(iter(self._tensors(groups, wanted, kind)))[1]

    @property
    def stats(self) -> dict[str, int]:
        """Bytes of tensors that came so far (headers are not counted), by where they came from: the cache's "host" memory, the
        cache folder ("disk"), the "origin", and of local files the kernel's "page_cache" or their disk ("file")."""
        return dict(zip(("host", "disk", "origin", "page_cache", "file"), self._core.came(), strict=True))

    def close(self) -> None:
        """Lets the version go: it may be evicted from the cache. Tensors stay."""
        self._core.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"forebay.weights.Weights({len(self)} tensors in {len(self.files)} files, {self.nbytes} bytes)"


def open(url: Source | Iterable[Source], **options: Any) -> Weights:
    """Opens a model: notes the version of each file, and reads and checks their headers.

    Args:
        url: A .safetensors file, a folder or prefix with such files, or their *.safetensors.index.json; or a list of files.
            URLs (s3://, gs://, az://, http(s)://) or paths. Of a folder with an index, the files that it names.
        cache_dir: Folder for blocks on NVMe, shared by every process that names it. Default: FOREBAY_CACHE_DIR, or
            forebay/data in the user's cache folder. Local files are read where they lie, unless it is given.
        cache_limit: Most bytes that cache_dir may take ("20GB", "500GiB" or a number), for all its processes together.
        host_memory_limit: Most bytes of memory for data on its way; tensors come on top.
        storage_options: Options of the object store: endpoint, region, keys. What is missing is found as the cloud's own
            tools find it.

    Raises: `SafetensorError` for a file or an index that isn't what it should be, `NotFoundError` (a FileNotFoundError), and
    whatever the store and the cache raise, all under `forebay.Error`.
    """
    return Weights(url, **options)


def stream(
    url: Source | Iterable[Source],
    *,
    device: Any = "cpu",
    framework: str = "pt",
    slices: Plan | None = None,
    owned: bool = True,
    gpu_memory_limit: int | str | None = None,
    mmap: bool = False,
    names: Iterable[str] | None = None,
    **options: Any,
) -> Iterator[tuple[str, Any]]:
    """All tensors of a model with their names, in the order of files and of bytes in them, as they arrive: `Weights.stream`
    of what `open` opens."""
    weights = open(url, **options)
    try:
        tensors = weights.stream(
            names,
            device=device,
            framework=framework,
            slices=slices,
            owned=owned,
            gpu_memory_limit=gpu_memory_limit,
            mmap=mmap,
        )
    except BaseException:
        weights.close()
        raise
    return _closing(weights, tensors)


def _closing(weights: Weights, tensors: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    with weights:
        yield from tensors


def load_file(
    filename: Source,
    device: Any = "cpu",
    *,
    backend: str = "mmap",
    slices: Plan | None = None,
    mmap: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Loads a file, folder or index into torch tensors of their own, by name, in the order of their bytes.

    `device` and `backend` as in `safetensors.torch.load_file`; `slices` and `mmap` as in `Weights.stream`; `options` are those
    of `open`.
    """
    check_backend(backend)
    with open(filename, **options) as weights:
        return weights.load(device=device, slices=slices, mmap=mmap)


def load_model(
    model: Any, filename: Source, strict: bool = True, device: Any = "cpu", *, backend: str = "mmap", **options: Any
) -> tuple[list[str], list[str]]:
    """Loads a file, folder or index into a torch module, as `safetensors.torch.load_model` does.

    Returns the names that the module has and the files don't, and those that the files have and the module doesn't. With
    `strict` either is a RuntimeError. Names that share memory in the module need one of them in the files.
    """
    state = load_file(filename, device=device, backend=backend, **options)
    missing, unexpected = _parallel.load_into(model, state)
    if strict and (missing or unexpected):
        name = type(model).__name__
        lines = [f"Error(s) in loading state_dict for {name}:"]
        if missing:
            lines.append("Missing key(s) in state_dict: " + ", ".join(f'"{each}"' for each in sorted(missing)))
        if unexpected:
            lines.append("Unexpected key(s) in state_dict: " + ", ".join(f'"{each}"' for each in sorted(unexpected)))
        raise RuntimeError("\n    ".join(lines))
    return missing, unexpected


def check_backend(backend: Any) -> None:
    """safetensors' ways to read a file: ours reads each file its own way, and takes their names."""
    if backend not in ("mmap", "pread"):
        raise ConfigError(f'backend={backend!r}: safetensors has "mmap" and "pread"; either reads the same here')


def _urls(url: Any) -> list[str]:
    if isinstance(url, (str, os.PathLike)):
        url = [url]
    try:
        urls = [os.fspath(each) for each in url]
    except TypeError:
        raise ConfigError(f"{url!r}: give a URL or a path, or several of them") from None
    if not all(isinstance(each, str) for each in urls):
        raise ConfigError(f"{url!r}: paths are str")
    return urls
