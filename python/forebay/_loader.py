"""`forebay.DataLoader`: shards as batches."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping

from forebay import _forebay, _sizes
from forebay._batch import Batch
from forebay._errors import ConfigError, Error, StateError
from forebay._fields import Field, Json, as_json, checked
from forebay._frozen import boolean, choice, integer, number
from forebay._stats import Stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_U64 = 2**64 - 1
_U32 = 2**32 - 1


class DataLoader:
    """Streams a dataset's samples as batches, epoch after epoch, for one rank of a training job.

    Args:
        urls: One or several of: an object's URL (s3://, gs://, az://, http(s)://, file://) or path; a folder; a glob; a brace
            list such as "train-{000000..000007}.tar"; several joined by "::".
        batch_size: Samples per batch and rank.
        fields: What a batch holds: names to `Image`, `Mask`, `Int`, `Float`, `Text`, `Json`, `Bytes`, `Numpy`.
        shuffle: False: storage order. True: shards and windows of samples permuted, another order each epoch. "sticky": as
            True, but every rank keeps its shards from epoch to epoch. "global": one permutation of all samples.
        seed: Key of the order and of random augmentation.
        drop_last: Leaves out the samples behind the last full global batch. False: the last batch is padded, and its
            `valid` counts the real rows.
        num_threads: Decoding threads. Default: the cores given to this process by cgroup and affinity, divided by
            LOCAL_WORLD_SIZE.
        prefetch_factor: Batches made ahead of the consumer.
        decoded_limit: Most bytes of decoded samples that stay in host memory from epoch to epoch, as a part of
            host_memory_limit. An epoch over them reads nothing and decodes nothing. Default: none stay.
        decoded_max_side: With decoded_limit or gpu_decoded_limit, most pixels of the longer side of an image that stays: larger
            ones are shrunk to it before the transforms, in every epoch. Default: images keep their size.
        timeout: Seconds without any progress before waiting is an error. Default: no limit.
        rank, world_size: This process among those that share an epoch. Default: RANK and WORLD_SIZE, or 0 of 1.
        shuffle_window: Samples over which order is random; part of the order. Default: 131,072, or the state's.
        canonical_ranks: Ranks that the order is laid out for; part of the order. Default: the world size of the first start.
        device: "cpu", or where batches go: "cuda" (this rank's, by LOCAL_RANK), "cuda:1", "cuda:GPU-..." with a UUID. "auto": a
            GPU where there is one.
        gpu_memory_limit: Most bytes of the device's memory that the loader takes, at once, when it is made. Default: what
            prefetch_factor + 3 batches need, and gpu_decoded_limit; 1 GiB more where batches have no size that is known before.
        gpu_decoded_limit: Most bytes of decoded samples that stay in the device's memory from epoch to epoch, as a part of
            gpu_memory_limit. Their rows are made by kernels: nothing is read, decoded or copied to the device. Fields have one
            size each. Default: none stay.
        decode_on: Where JPEG images are decoded: "cpu"; "gpu", by nvJPEG, and by the CPU what it refuses; "auto": where the first
            batches are decoded faster. nvJPEG's pixels differ from the CPU's by some levels.
        cache_dir: Folder for blocks on NVMe, shared by every process that names it. Default: FOREBAY_CACHE_DIR, or
            forebay/data in the user's cache folder.
        cache_limit: Most bytes that cache_dir may take ("20GB", "500GiB" or a number), for all its processes together.
        host_memory_limit: Most bytes of memory that this process's data may take, every stage included.
        storage_options: Options of the object store: endpoint, region, keys. What is missing is found as the cloud's own
            tools find it.
        on_error: "raise", or "skip": a sample that can't be decoded is replaced, counted and listed.
        max_errors: Most samples that "skip" may skip before it is an error after all.
        map: A function from batch to anything, called for each batch in the consumer's thread. The slow path: it runs
            under the interpreter lock, while nothing else of the program does.
        trace: A file for a timeline of what the loader did, written by `close()` in Chrome's trace format, for Perfetto or
            chrome://tracing. The first 500,000 events are kept. Of several ranks, each writes its own: "epoch.json" becomes
            "epoch.rank3.json".

    Raises: `ConfigError` for an argument that can't be used, `DeviceError` where there is no usable driver or no room on the
    device, and whatever opening the dataset and the cache raises, all
    under `forebay.Error`.
    """

    _into_consumers = False
    """Whether batches on a device are written to the framework's own memory."""

    def __init__(
        self,
        urls: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        batch_size: int,
        fields: Mapping[str, Field],
        shuffle: bool | str = False,
        seed: int = 0,
        drop_last: bool = False,
        num_threads: int | None = None,
        prefetch_factor: int = 2,
        decoded_limit: int | str | None = None,
        decoded_max_side: int | None = None,
        timeout: float | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle_window: int | None = None,
        canonical_ranks: int | None = None,
        device: str = "cpu",
        gpu_memory_limit: int | str | None = None,
        gpu_decoded_limit: int | str | None = None,
        decode_on: str = "cpu",
        cache_dir: str | os.PathLike[str] | None = None,
        cache_limit: int | str = "20GB",
        host_memory_limit: int | str = "2GB",
        storage_options: Mapping[str, Any] | None = None,
        on_error: str = "raise",
        max_errors: int = 100,
        map: Callable[[Any], Any] | None = None,
        trace: str | os.PathLike[str] | None = None,
    ) -> None:
        self._generation = 0
        self._closed = False
        if map is not None and not callable(map):
            raise ConfigError(f"map={map!r}: give a function that takes a batch")
        self._map = map
        self._fields = checked(fields)
        self._json = [name for name, field in self._fields.items() if isinstance(field, Json)]
        rank, world_size = _place(rank, world_size, self._default_place())
        place = _device(device)
        for name, limit in (("gpu_memory_limit", gpu_memory_limit), ("gpu_decoded_limit", gpu_decoded_limit)):
            if place is None and limit is not None and device != "auto":
                raise ConfigError(f"{name}={limit!r}: batches stay in host memory with device={device!r}")
        if place is None and gpu_decoded_limit is not None and decoded_max_side is not None and decoded_limit is None:
            # device="auto" without a GPU: nothing is kept, and pixels are those of a machine with one.
            decoded_limit = 4096
        decode_on = choice("decode_on", decode_on, ("cpu", "gpu", "auto"))
        if place is None and decode_on == "gpu" and device != "auto":
            raise ConfigError(f"decode_on='gpu': batches stay in host memory with device={device!r}")
        self._core = _forebay.Loader(
            _sources(urls),
            fields=as_json(self._fields),
            batch_size=integer("batch_size", batch_size, 1, 2**31),
            mode=_mode(shuffle),
            seed=integer("seed", seed, 0, _U64),
            drop_last=boolean("drop_last", drop_last),
            shuffle_window=_optional("shuffle_window", shuffle_window, 1, _U64),
            canonical_ranks=_optional("canonical_ranks", canonical_ranks, 1, _U32),
            rank=rank,
            world_size=world_size,
            local_world_size=max(1, _from_environment("LOCAL_WORLD_SIZE") or 1),
            num_threads=_optional("num_threads", num_threads, 1, 2**15),
            prefetch_factor=integer("prefetch_factor", prefetch_factor, 1, 2**15),
            decoded_limit=None if decoded_limit is None else _sizes.parse("decoded_limit", decoded_limit),
            decoded_max_side=_optional("decoded_max_side", decoded_max_side, 1, 65_535),
            timeout=None if timeout is None else number("timeout", timeout, 0.001, 1e9),
            skip_errors=choice("on_error", on_error, ("raise", "skip")) == "skip",
            max_errors=integer("max_errors", max_errors, 0, _U64),
            cache_dir=_cache_dir(cache_dir),
            cache_limit=_sizes.parse("cache_limit", cache_limit),
            host_memory_limit=_sizes.parse("host_memory_limit", host_memory_limit),
            storage_options=_storage_options(storage_options),
            trace=_trace(trace, rank, world_size),
            device=place,
            local_rank=_local_rank() if place == "cuda" else None,
            into_consumers=self._into_consumers,
            decode_on=decode_on,
            jpeg_folders=[] if place is None or decode_on == "cpu" else jpeg_folders(),
            gpu_memory_limit=None if gpu_memory_limit is None else _sizes.parse("gpu_memory_limit", gpu_memory_limit),
            gpu_decoded_limit=None
            if gpu_decoded_limit is None
            else _sizes.parse("gpu_decoded_limit", gpu_decoded_limit),
        )
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        _open_loaders.add(self)
        _say_notices()

    def __iter__(self) -> Iterator[Any]:
        """Starts the next epoch, or goes on where a state was loaded. Ends an epoch that still runs.

        With several ranks, the first start, and the first after each loaded state, is compared with those of the ranks that use
        the same cache_dir: a `StateError` where orders, positions or batch sizes differ.
        """
        self._generation += 1
        try:
            self._core.start()
        finally:
            _say_notices()
        return _Epoch(self, self._generation)

    def __len__(self) -> int:
        """Batches per rank of a whole epoch. A TypeError where the shards' counts are not known yet."""
        batches = self._core.batches()
        if batches is None:
            raise TypeError(
                "len(): the number of samples is not known yet. loader.count() gets it, by one pass over shards that have no "
                "index; `forebay index --write-sidecars` makes the indexes once for everybody"
            )
        return batches

    def count(self) -> int:
        """Gets every shard's count, by one announced pass over shards that have no index, and gives `len(loader)`."""
        try:
            self._core.count()
        finally:
            _say_notices()
        return len(self)

    def set_epoch(self, epoch: int) -> None:
        """Keeps the position where `epoch` is the epoch that the loader stands in; otherwise starts `epoch` at 0."""
        self._core.set_epoch(integer("epoch", epoch, 0, _U64))

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: small, JSON, counts delivered batches only, equal on every rank."""
        import json

        state: dict[str, Any] = json.loads(self._core.state())
        return state

    def load_state_dict(self, state: Mapping[str, Any] | str) -> None:
        """Goes on from a state, given as `state_dict()` made it or as its JSON; also on another world size. Reads nothing.

        Raises `StateError` for a state of another dataset, or one that is none.
        """
        import json

        try:
            text = state if isinstance(state, str) else json.dumps(dict(state))
        except (TypeError, ValueError) as error:
            raise StateError(f"the state is not what state_dict() made: {error}") from None
        self._generation += 1
        self._core.load_state(text)

    def order_hash(self) -> str:
        """A hash of the order of samples, as hex: of the shards' counts, shuffle, seed, shuffle_window and canonical_ranks.

        Equal on ranks that agree, whatever their batch sizes and the epoch; for comparing it by collectives of your own. Counts
        shards that nobody has counted yet.
        """
        try:
            return self._core.order_hash()
        finally:
            _say_notices()

    def stats(self) -> Stats:
        """What ran so far: samples and bytes by tier, stalls, I/O engine, SIMD level, skipped samples."""
        return Stats._from_json(self._core.stats())

    def close(self) -> None:
        """Ends everything that runs, and writes the trace that was asked for. Batches that were handed out stay valid."""
        core = getattr(self, "_core", None)
        if core is None or self._closed:
            return
        self._generation += 1
        core.close()
        self._closed = True
        _say_notices()
        core.write_trace()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        _quietly(self.close)

    def __repr__(self) -> str:
        name = f"{type(self).__module__.removesuffix('._loader')}.{type(self).__qualname__}"
        fields = ", ".join(self._fields)
        closed = ", closed" if self._closed else ""
        return f"<{name} batch_size={self.batch_size} rank={self.rank} of {self.world_size}, fields {fields}{closed}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a loader can't be pickled: it has threads and a cache of its own. It needs no worker processes: its threads decode "
            "ahead. Where a process must have one, make the loader in that process"
        )

    def _default_place(self) -> tuple[int, int] | None:
        """Rank and world size where neither arguments nor environment tell."""
        return None

    def _convert(self, name: str, column: Any) -> Any:
        """A column as the consumer gets it."""
        if name not in self._json:
            return column
        import json

        return [json.loads(text) for text in column]

    def _next(self) -> Any:
        try:
            raw = self._core.next()
        finally:
            _say_notices()
        if raw is None:
            raise StopIteration
        columns, epoch, index, valid, samples = raw
        converted = {name: self._convert(name, column) for name, column in columns.items()}
        batch = Batch(converted, epoch, index, valid, samples)
        if self._map is None:
            return batch
        try:
            return self._map(batch)
        except StopIteration as error:
            raise RuntimeError("map= raised StopIteration") from error


class _Epoch:
    """The batches of one `iter()`. Dropping it, as leaving a loop does, ends the epoch."""

    def __init__(self, loader: DataLoader, generation: int) -> None:
        self._loader = loader
        self._generation = generation
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        if self._loader._generation != self._generation:
            raise StateError(
                "this iterator has ended: the loader was closed, given a state, or iterated over again since. "
                "A loader runs one epoch at a time"
            )
        try:
            return self._loader._next()
        except StopIteration:
            self._over = True
            raise

    def close(self) -> None:
        """Ends the epoch here and frees what was prepared ahead."""
        loader, self._over = self._loader, True
        if loader._generation == self._generation and not loader._closed:
            loader._core.stop()

    def __del__(self) -> None:
        if not self._over:
            _quietly(self.close)


_open_loaders: weakref.WeakSet[DataLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leaves every cache folder in good order at exit. In a forked child nothing is there to close."""
    for loader in list(_open_loaders):
        _quietly(loader.close)
    _quietly(_forebay.end_devices)


def _quietly(call: Callable[[], None]) -> None:
    """For finalizers, where an exception has nobody to go to: a forked child's ForkError, an interpreter half gone."""
    try:
        call()
    except (Error, AttributeError, TypeError, ImportError):
        pass


def _say_notices() -> None:
    notices = _forebay.take_notices()
    if notices:
        import logging

        logger = logging.getLogger("forebay")
        for level, text in notices:
            logger.log(level, "%s", text)


def _sources(urls: Any) -> list[str]:
    listed = [urls] if isinstance(urls, (str, os.PathLike)) else urls
    try:
        sources = [os.fspath(url) for url in listed]
    except TypeError:
        sources = []
    if not sources or not all(isinstance(url, str) and url for url in sources):
        raise ConfigError(
            f"urls={urls!r}: give a URL, a path, a glob or a folder, or a list of them, such as "
            '"s3://photos/train-{000000..000007}.tar"'
        )
    return sources


def _mode(shuffle: Any) -> str:
    modes = {False: "storage", True: "shuffle", "sticky": "sticky", "global": "global"}
    if isinstance(shuffle, (bool, str)) and shuffle in modes:
        return modes[shuffle]
    raise ConfigError(f'shuffle={shuffle!r}: give True, False, "sticky" or "global"')


def _optional(what: str, value: Any, low: int, high: int) -> int | None:
    return None if value is None else integer(what, value, low, high)


def _device(device: Any) -> str | None:
    """The device as the runtime names it; None for host memory."""
    if device == "cpu":
        return None
    if device == "auto":
        count, why = _forebay.count_devices()
        if why is not None:
            import logging

            logging.getLogger("forebay").info('device="auto" is host memory: %s', why)
        return "cuda" if count else None
    if isinstance(device, str) and device.split(":")[0] == "cuda":
        return device
    raise ConfigError(f'device={device!r}: give "cpu", "cuda", "cuda:1", "cuda:GPU-..." with a UUID, or "auto"')


def jpeg_folders() -> list[str]:
    """Where NVIDIA's wheels, where they are installed, have the library that decodes JPEG on a device."""
    from importlib.util import find_spec

    folders = []
    for package in ("nvidia.nvjpeg", "nvidia.cu13"):
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):
            continue
        places = spec.submodule_search_locations if spec else None
        folders += [os.path.join(place, "lib") for place in places or ()]
    return folders


def _local_rank() -> int | None:
    """This process's number among the ranks of its node, where it is one of them."""
    local_rank = _from_environment("LOCAL_RANK")
    if local_rank is not None and not 0 <= local_rank <= _U32:
        raise ConfigError(
            f"the environment's LOCAL_RANK='{local_rank}' is no rank; unset it, or name the device, as in device=\"cuda:0\""
        )
    return local_rank


def _place(rank: Any, world_size: Any, default: tuple[int, int] | None) -> tuple[int, int]:
    """This process's (rank, world size): the arguments, else the environment, else `default`, else (0, 1)."""
    given = "rank and world_size", rank, world_size
    if rank is None and world_size is None:
        given = "RANK and WORLD_SIZE", _from_environment("RANK"), _from_environment("WORLD_SIZE")
    names, rank, world_size = given
    if rank is None and world_size is None:
        return default or (0, 1)
    if rank is None or world_size is None:
        raise ConfigError(f"{names}: only one of the two is given ({rank!r} and {world_size!r}); give both, or neither")
    world_size = integer(names.split()[-1], world_size, 1, _U32)
    rank = integer(names.split()[0], rank, 0, _U32)
    if rank >= world_size:
        raise ConfigError(f"{names}: rank {rank} is not below the world size {world_size}; ranks count from 0")
    return rank, world_size


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"the environment's {name}={text!r} is not a number; unset it, or give rank= and world_size="
        ) from None


def _trace(file: Any, rank: int, world_size: int) -> str | None:
    """The file to write. Of several ranks each has its own: its number comes before the suffix."""
    if file is None:
        return None
    try:
        path = os.fspath(file)
    except TypeError:
        path = ""
    if not isinstance(path, str) or not path:
        raise ConfigError(f'trace={file!r}: give a file to write, such as "epoch.trace.json"')
    if world_size == 1:
        return path
    stem, suffix = os.path.splitext(path)
    return f"{stem}.rank{rank}{suffix}"


def _cache_dir(folder: Any) -> str:
    if folder is None:
        folder = os.environ.get("FOREBAY_CACHE_DIR")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(home, "forebay", "data")
    try:
        path = os.fspath(folder)
    except TypeError:
        path = ""
    if not isinstance(path, str) or not path:
        raise ConfigError(f'cache_dir={folder!r}: give a folder on a local disk, such as "/nvme/forebay"')
    return path


def _storage_options(options: Any) -> dict[str, str]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        # Not shown: it may hold a secret.
        raise ConfigError(
            f'storage_options is a {type(options).__name__}; give a dict such as {{"endpoint": "http://..."}}'
        )
    clean = {}
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            raise ConfigError(
                f"storage_options: {name!r} has a {type(value).__name__}; names are str, values str or numbers"
            )
        clean[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return clean
