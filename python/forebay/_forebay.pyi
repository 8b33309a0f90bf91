"""The compiled half of the package. Only `Array` is for users, as `forebay.Array`."""

import sys
from os import PathLike
from typing import Any, Self, final

from typing_extensions import disjoint_base

__all__ = [
    "Array",
    "DeviceArray",
    "DeviceLoading",
    "Loader",
    "Loading",
    "Weights",
    "_ArrayBase",
    "_Handle",
    "__version__",
    "available_threads",
    "check_ranks_agree",
    "copy_objects",
    "count_devices",
    "end_devices",
    "list_objects",
    "main",
    "take_notices",
]

__version__: str

@final
class _Handle:
    """Carries an array from Rust into `Array(...)`; Python code can't make one."""

@disjoint_base
class _ArrayBase:
    """Shape, dtype and address of an array, and DLPack. `Array` adds the buffer protocol."""

    def __new__(cls, handle: _Handle) -> Self: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions, outermost first."""

    @property
    def dtype(self) -> str:
        """numpy's name of the elements' type, such as "uint8"; "bfloat16", which numpy doesn't have."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Where the array is, for numpy and others; an AttributeError for bfloat16."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any: ...
    def numpy(self) -> Any:
        """A numpy array over the same memory."""

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over the same memory; `copy=True` makes a copy, nothing else does."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """(device type, device number): (1, 0), host memory."""

    def __len__(self) -> int: ...

@final
class DeviceArray:
    """An array of a batch in the memory of a device, never copied: hand it to torch.from_dlpack, cupy.from_dlpack,
    jax.dlpack.from_dlpack.

    Its memory goes back to the loader when the last of them lets go, behind the work that they have queued on the stream that
    they took it on; it may outlive the loader. Use on another stream is to be said: record_stream(stream).
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions, outermost first."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index of a dimension to the next."""

    @property
    def dtype(self) -> str:
        """numpy's name of the elements' type, such as "uint8"; "bfloat16", which numpy doesn't have."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""

    @property
    def device(self) -> str:
        """As torch writes it: "cuda:0"."""

    def record_stream(self, stream: Any) -> None:
        """The memory is not used again before what is queued on this stream when the array is let go. A stream of torch or CuPy,
        one with `__cuda_stream__`, or its handle."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any:
        """A DLPack capsule over the same memory, on which `stream` may work at once: it waits for the batch, the CPU doesn't.

        `stream`: the handle of the consumer's stream; None and 1 are the legacy default stream, 2 the thread's, -1 asks for no
        waiting. `dl_device=(1, 0)` copies to host memory and waits; then `stream` must be None. Whatever is asked wrongly, or of
        a stream that is being captured, is a BufferError.
        """

    def _write_to(self, address: int, stream: int) -> None: ...
    def __dlpack_device__(self) -> tuple[int, int]:
        """(device type, device number): (2, 0) is the first CUDA device."""

    def __len__(self) -> int: ...
    def __array__(self, *_arguments: Any, **_keywords: Any) -> Any: ...

@final
class Array(_ArrayBase):
    """An array of a batch, in memory of the loader: C-contiguous but for Layout("channels_last"), writable, never copied.

    Hand it to torch.from_dlpack, numpy.from_dlpack, numpy.asarray or memoryview. Its memory goes back to the loader when
    the last of them lets go; it may outlive the loader.
    """

    # The buffer protocol works on every version; Python code sees its methods from 3.12 on.
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
        def __release_buffer__(self, buffer: memoryview, /) -> None: ...

@final
class Loader:
    """One rank's loader. Arguments were checked by `forebay.DataLoader`.

    Waits without the interpreter lock; a signal handler that raises ends every wait at once. Every method raises
    `ForkError` in a forked child, and errors under `forebay.Error`.
    """

    def __new__(
        cls,
        sources: list[str],
        *,
        fields: str,
        batch_size: int,
        mode: str,
        seed: int,
        drop_last: bool,
        shuffle_window: int | None,
        canonical_ranks: int | None,
        rank: int,
        world_size: int,
        local_world_size: int,
        num_threads: int | None,
        prefetch_factor: int,
        decoded_limit: int | None,
        decoded_max_side: int | None,
        timeout: float | None,
        skip_errors: bool,
        max_errors: int,
        cache_dir: str,
        cache_limit: int,
        host_memory_limit: int,
        storage_options: dict[str, str],
        trace: str | None,
        device: str | None,
        local_rank: int | None,
        gpu_memory_limit: int | None,
        gpu_decoded_limit: int | None,
        decode_on: str,
        jpeg_folders: list[str],
        into_consumers: bool,
    ) -> Self:
        """Resolves the sources and opens the cache. `fields` is JSON, `timeout` seconds, limits bytes."""

    def batches(self) -> int | None:
        """Batches per rank of a whole epoch, or None without every shard's count."""

    def count(self) -> None:
        """Gets every shard's count."""

    def start(self) -> None:
        """Starts the next epoch, or goes on where a state was loaded."""

    def next(self) -> tuple[dict[str, Any], int, int, int, list[tuple[int, int]]] | None:
        """(columns, epoch, index, valid, samples), or None where the epoch is over."""

    def stop(self) -> None:
        """Leaves the running epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Keeps the position in epoch `epoch`; starts any other at 0."""

    def state(self) -> str:
        """Where the loader stands, as JSON."""

    def load_state(self, state: str) -> None:
        """Goes on from a state."""

    def order_hash(self) -> str:
        """The order's hash, equal on ranks that agree."""

    def terms(self) -> str:
        """What every rank must start with, as JSON: see `check_ranks_agree`."""

    def stats(self) -> str:
        """What ran so far, as JSON."""

    def close(self) -> None:
        """Ends everything; batches that were handed out stay valid."""

    def write_trace(self) -> None:
        """Writes what was recorded, where that was asked for. For a closed loader."""

def count_devices() -> tuple[int, str | None]:
    """CUDA devices that this process sees, and why there are none where it sees none."""

def end_devices() -> None:
    """Ends all use of devices, at exit: batches that are still held keep their memory until the process is gone."""

def check_ranks_agree(terms: list[str]) -> None:
    """An error where the `terms` of all ranks, by rank, are not the same."""

def available_threads() -> int:
    """Cores given to this process by cgroup and affinity, divided by LOCAL_WORLD_SIZE; at least 1."""

def take_notices() -> list[tuple[int, str]]:
    """What the runtime had to say since the last call, as (level of `logging`, text)."""

def list_objects(folder: str, storage_options: dict[str, str]) -> list[str]:
    """URLs of everything below a folder, by name."""

def copy_objects(files: list[tuple[str, str]], storage_options: dict[str, str]) -> None:
    """Copies objects to files, one after the other, each whole or not at all."""

def main(argv: list[str], jpeg_folders: list[str]) -> int:
    """Runs the program `forebay` with `argv`, whose first entry is its name; returns its exit code."""

@final
class Weights:
    """An open model; `forebay.weights.Weights` makes frameworks' tensors of it."""

    def __new__(
        cls,
        urls: list[str],
        *,
        cache_dir: str,
        cache_limit: int,
        host_memory_limit: int,
        storage_options: dict[str, str],
        cache_local: bool,
    ) -> Weights: ...
    def files(self) -> list[tuple[str, str, int, str]]:
        """(name, URL, bytes, version) of each file."""

    def tensors(self) -> tuple[list[str], list[str], list[tuple[int, ...]], list[int], list[int], list[int]]:
        """Names, dtypes, shapes, bytes, numbers of their files and first bytes in them of all tensors, in the order of files
        and of bytes in them."""

    def metadata(self, file: int) -> dict[str, str] | None:
        """`__metadata__` of a file, by its number; None where it has none."""

    def load(self, wanted: list[tuple[int, list[tuple[int, int]] | None]], ahead_bytes: int, leases: bool) -> Loading:
        """Starts to bring tensors (by number), or one range of indexes of each of their dimensions, to host memory; as
        leases, to memory that is used again when they are let go."""

    def load_onto(
        self,
        wanted: list[tuple[int, list[tuple[int, int]] | None]],
        *,
        device: str,
        local_rank: int | None,
        budget: int | None,
    ) -> DeviceLoading:
        """Starts to bring them to a device: to memory that the caller brings, or (`budget`, 0 for as much as they take) to
        memory of Forebay's."""

    def map(self, file: int) -> Array:
        """The bytes of a file, by its number, mapped: of a cached one once all of it is there and was checked."""

    def path(self, name: str) -> PathLike[str]:
        """A file of the model's folder as a plain file: a `pathlib.Path`."""

    def prefetch(self, weights_only: bool) -> tuple[int, int, int, int, int]:
        """Brings its files into the cache: (files, bytes, blocks that were there, that were fetched, that found no room)."""

    def verify(self) -> tuple[tuple[int, int, int, int], list[tuple[str, int, int, bool]]]:
        """Rereads the weights: bytes (checked, fetched, found no room, read without a checksum), and bad blocks as (file, first
        byte, bytes, fetched again)."""

    def came(self) -> tuple[int, int, int, int, int]:
        """Bytes that came so far: from the host tier, the cache folder, the origin, the kernel's page cache, local files."""

    def close(self) -> None:
        """Lets the versions go."""

@final
class Loading:
    """Groups of tensors on their way; made by `Weights.load`."""

    def next(self) -> tuple[Array, list[tuple[int, int, int]]] | None:
        """The next group, waited for: its memory, and for each tensor its place among those asked for, its first byte and its
        bytes. None behind the last one."""

    def close(self) -> None:
        """Stops what is on its way."""

@final
class DeviceLoading:
    """Groups of tensors on their way to a device; made by `Weights.load_onto`."""

    def next(self) -> tuple[int, list[tuple[int, int, int]]] | None:
        """The next group: its bytes, and for each tensor its place among those asked for, its first byte and its bytes. None
        behind the last one. It is to be filled before the next one is asked for."""

    def fill(self, address: int, stream: int) -> None:
        """Fills the group into memory of the caller's on the same device: `address` has room for its bytes, and is the
        caller's to write on that stream."""

    def take(self) -> DeviceArray:
        """Fills the group into memory of Forebay's: an array of its bytes."""

    def copied_bytes(self) -> int:
        """Bytes that were handed to the bus."""

    def close(self) -> None:
        """Stops what is on its way, and waits for what the device reads."""
