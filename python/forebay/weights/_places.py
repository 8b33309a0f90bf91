"""Where tensors go: groups of them in memory of the host or of a GPU, one after another."""

from __future__ import annotations

from forebay._errors import ConfigError
from forebay._loader import _local_rank
from forebay.weights._frameworks import Numpy, Torch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from forebay import _forebay

    Member: TypeAlias = tuple[int, int, int]
    Wanted: TypeAlias = list[tuple[int, list[tuple[int, int]] | None]]


def device_named(device: Any) -> str | None:
    """The GPU that tensors go to, as the runtime names it, or None for host memory."""
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        device = f"cuda:{device}"
    name = str(device)
    if name == "cpu":
        return None
    if name.split(":")[0] == "cuda":
        return name
    raise ConfigError(f'device={name!r}: give "cpu", "cuda", "cuda:1", the number of a GPU, or a torch.device')


def check(kind: Any, device: str | None) -> None:
    """A `ConfigError` where the framework has no such memory."""
    if device is None and not isinstance(kind, (Torch, Numpy)):
        raise ConfigError('framework="dlpack" is for tensors on a GPU: give device="cuda", or framework="np"')
    if device is not None and isinstance(kind, Numpy):
        raise ConfigError(f'device={device!r}: numpy has host memory only: give framework="pt" or "dlpack"')


def groups(
    core: _forebay.Weights,
    wanted: Wanted,
    kind: Any,
    device: str | None,
    *,
    owned: bool,
    gpu_memory_limit: int | None,
    ahead: int,
) -> Iterator[tuple[Any, list[Member]]]:
    """Memory as the framework has it, and what lies where in it. Everything is checked, and reading begins, before the
    first is asked for."""
    if gpu_memory_limit is not None and (device is None or (owned and isinstance(kind, Torch))):
        raise ConfigError(
            "gpu_memory_limit: it bounds memory of Forebay's on a GPU: give device= and owned=False (torch has its own limit)"
        )
    check(kind, device)
    if device is None:
        return _on_host(core.load(wanted, ahead, not owned), kind)
    if isinstance(kind, Torch) and owned:
        device = kind.device(device)
        return _in_torch(core.load_onto(wanted, device=device, local_rank=None, budget=None), kind, device)
    local_rank = _local_rank() if device == "cuda" else None
    return _in_leases(core.load_onto(wanted, device=device, local_rank=local_rank, budget=gpu_memory_limit or 0), kind)


def _on_host(loading: _forebay.Loading, kind: Any) -> Iterator[tuple[Any, list[Member]]]:
    try:
        while (came := loading.next()) is not None:
            memory, members = came
            handed = [kind.base(memory)]
            # What is handed over is held by nobody here.
            del came, memory
            yield handed.pop(), members
    finally:
        loading.close()


def _in_torch(loading: _forebay.DeviceLoading, kind: Torch, device: str) -> Iterator[tuple[Any, list[Member]]]:
    """Memory of torch's own allocator, written on its current stream: torch's rules for memory and streams hold for it."""
    try:
        while (coming := loading.next()) is not None:
            nbytes, members = coming
            base, stream = kind.empty(nbytes, device)
            loading.fill(base.data_ptr(), stream)
            handed = [base]
            del base
            yield handed.pop(), members
    finally:
        loading.close()


def _in_leases(loading: _forebay.DeviceLoading, kind: Any) -> Iterator[tuple[Any, list[Member]]]:
    """Memory of Forebay's, which is used again when the tensors in it are let go and the streams that took them are done."""
    try:
        while (coming := loading.next()) is not None:
            _, members = coming
            yield kind.base(loading.take()), members
    finally:
        loading.close()
