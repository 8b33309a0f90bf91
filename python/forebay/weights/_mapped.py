"""Tensors over mapped files: their bytes are read as they are touched, and copied nowhere."""

from __future__ import annotations

from forebay._errors import ConfigError
from forebay.weights._frameworks import BITS, Numpy, Torch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    from forebay.weights._model import TensorInfo

    Part: TypeAlias = list[tuple[int, int]]


def check(kind: Any, device: str | None, gpu_memory_limit: int | None) -> None:
    """Only host memory can be mapped."""
    if device is not None or gpu_memory_limit is not None:
        raise ConfigError("mmap=True maps files into host memory: leave device= and gpu_memory_limit= out")
    if not isinstance(kind, (Torch, Numpy)):
        raise ConfigError('mmap=True: give framework="pt" or "np"')


def tensors(
    wanted: Iterable[tuple[TensorInfo, Part | None]],
    kind: Any,
    map_file: Callable[[str], Any],
    read: Callable[[str, Part], Any],
) -> Iterator[tuple[str, Any]]:
    """Tensors in the order in which they are wanted, which is that of files. Elements that lie at no multiple of their size are
    copied, and so are parts that aren't contiguous; parts of what is packed into bytes are read."""
    file: str | None = None
    base: Any = None
    for info, part in wanted:
        if part is not None and BITS[info.dtype] < 8:
            yield info.name, read(info.name, part)
            continue
        if info.file != file:
            file, base = info.file, kind.base(map_file(info.file))
        own, offset = base, info.offset
        if offset % max(BITS[info.dtype] // 8, 1):
            own = base[offset : offset + info.nbytes]
            own, offset = own.clone() if isinstance(kind, Torch) else own.copy(), 0
        whole = kind.tensors(own)(offset, info.nbytes, info.dtype, info.shape)
        if part is not None:
            whole = kind.contiguous(whole[tuple(slice(start, stop) for start, stop in part)])
        yield info.name, whole
