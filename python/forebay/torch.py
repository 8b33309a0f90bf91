"""`forebay.torch.DataLoader`: the same arguments, torch tensors in the batches.

Arrays become tensors over the same memory (no copy); with device="cuda" they are torch's own, filled on its current stream.
Images are NCHW views in channels_last strides, ragged ones CHW, where their transform= has no Layout that says otherwise. Text,
Json and Bytes stay lists. Don't put it inside torch.utils.data.DataLoader, nor in worker processes: its own threads decode ahead.
"""

from collections.abc import Iterator
from typing import Any

import torch

from forebay import _forebay
from forebay._conversions import layout_of
from forebay._errors import ConfigError, StateError
from forebay._fields import Image
from forebay._forebay import Array, DeviceArray
from forebay._loader import DataLoader as _DataLoader
from forebay._loader import _say_notices

__all__ = ["DataLoader"]


class DataLoader(_DataLoader):
    """As `forebay.DataLoader`, with torch tensors.

    Where torch.distributed is initialised it also tells rank and world size, unless arguments or the environment do, and
    the first `iter()` after the start or after a state was loaded compares order, position and batch size among the ranks of
    `process_group` (default: all), on all nodes: every rank of it must iterate. A difference, such as another seed, is a
    `StateError` on every rank. So is what keeps one of them from starting, such as a missing shard, on the others.
    """

    _into_consumers = True

    def __init__(self, urls: Any, *, process_group: Any = None, device: str = "cpu", **arguments: Any) -> None:
        super().__init__(urls, device=_device(device), **arguments)
        self._group = process_group
        self._compared = False

    def __iter__(self) -> Iterator[Any]:
        if not self._compared and _distributed():
            self._compare_order()
            self._compared = True
        return super().__iter__()

    def load_state_dict(self, state: Any) -> None:
        """As `forebay.DataLoader.load_state_dict`."""
        super().load_state_dict(state)
        self._compared = False

    def _compare_order(self) -> None:
        terms, failed = "", None
        try:
            terms = self._core.terms()
        except Exception as error:
            failed = error
        finally:
            _say_notices()
        # A rank that can't start says so: the others would wait for its terms for ever.
        said: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        why = failed and (str(failed) or type(failed).__name__)
        torch.distributed.all_gather_object(said, (terms, why), group=self._group)
        if failed:
            raise failed
        for rank, (_, why) in enumerate(said):
            if why:
                raise StateError(f"rank {rank} can't start: {why}")
        _forebay.check_ranks_agree([theirs for theirs, _ in said])

    def _default_place(self) -> tuple[int, int] | None:
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _distributed() else None

    def _convert(self, name: str, column: Any) -> Any:
        column = super()._convert(name, column)
        field = self._fields[name]
        move = isinstance(field, Image) and layout_of(field.transform) is None
        if isinstance(column, Array):
            return _tensor(column, move)
        if isinstance(column, DeviceArray):
            return _channels_first(_written(column), move)
        if column and isinstance(column[0], Array):
            return [_tensor(each, move) for each in column]
        return column


def _device(device: Any) -> Any:
    """The loader's device for what torch means: "cuda" is torch's current device."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" or (isinstance(device, str) and device.startswith("cuda:")):
        if not torch.cuda.is_available():
            built = "is built for the CPU" if torch.version.cuda is None else "finds no CUDA device"
            raise ConfigError(
                f'device={device!r}: this torch ({torch.__version__}) {built}; install one for CUDA, or use device="cpu", or '
                "forebay.DataLoader, whose batches any framework takes by DLPack"
            )
        if device == "cuda":
            device = f"cuda:{torch.cuda.current_device()}"
    return device


def _tensor(array: Array, channels_first: bool) -> torch.Tensor:
    return _channels_first(torch.from_dlpack(array), channels_first)


def _written(array: DeviceArray) -> torch.Tensor:
    """A tensor of torch's own allocator, written on its current stream: torch's rules for memory and streams hold for it.

    Memory that torch imports has no `record_stream`, so the loader could not know when work on side streams is done.
    """
    tensor = torch.empty_strided(array.shape, array.strides, dtype=getattr(torch, array.dtype), device=array.device)
    if tensor.numel():
        array._write_to(tensor.data_ptr(), torch.cuda.current_stream(tensor.device).cuda_stream)
    return tensor


def _channels_first(tensor: torch.Tensor, really: bool) -> torch.Tensor:
    return tensor.movedim(-1, -3) if really else tensor


def _distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())
