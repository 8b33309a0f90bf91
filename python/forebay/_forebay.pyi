"""The compiled half of the package. Only `Array` is for users, as `forebay.Array`."""

import sys
from typing import Any, Self, final

from typing_extensions import disjoint_base

__all__ = [
    "Array",
    "DeviceArray",
    "Loader",
    "_ArrayBase",
    "_Handle",
    "__version__",
    "available_threads",
    "check_ranks_agree",
    "count_devices",
    "end_devices",
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

def main(argv: list[str], jpeg_folders: list[str]) -> int:
    """Runs the program `forebay` with `argv`, whose first entry is its name; returns its exit code."""
