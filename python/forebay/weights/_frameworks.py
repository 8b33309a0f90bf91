"""Bytes as tensors of a framework."""

from __future__ import annotations

from forebay._errors import ConfigError
from forebay.weights._errors import SafetensorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of an element, by safetensors' name."""

_TORCH = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
    "U64": "uint64",
}  # fmt: skip

_NUMPY = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip

_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def packed(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in bytes of elements that are smaller than one: the last dimension's bytes, or all in one dimension where
    those aren't whole."""
    bits = BITS[dtype]
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    elements = 1
    for size in shape:
        elements *= size
    return (elements * bits // 8,)


class Torch:
    """torch tensors over memory that the group's tensors share."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self._dtypes: dict[str, tuple[Any, bool]] = {}
        self._strides: dict[tuple[int, ...], tuple[int, ...]] = {}

    def dtype(self, name: str) -> tuple[Any, bool]:
        """torch's type, and whether elements are packed into bytes."""
        known = self._dtypes.get(name)
        if known is None:
            found = getattr(self.torch, _TORCH.get(name, "uint8"), None)
            if found is None:
                raise SafetensorError(
                    f"this torch ({self.torch.__version__}) has no type for {name}: install a newer one, or take the bytes "
                    "by framework='np'"
                )
            known = self._dtypes[name] = (found, BITS[name] < 8)
        return known

    def base(self, memory: Any) -> Any:
        """A group's memory."""
        return self.torch.from_dlpack(memory)

    def tensors(self, base: Any) -> Callable[[int, int, str, tuple[int, ...]], Any]:
        """What makes a tensor of a group, of its first byte there, its bytes, dtype and shape."""
        views: dict[str, Any] = {}

        def tensor(offset: int, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Any:
            kind, is_packed = self.dtype(dtype)
            if is_packed:
                shape = packed(dtype, shape)
            if nbytes == 0:
                return self.torch.empty(shape, dtype=kind, device=base.device)
            view = views.get(dtype)
            if view is None:
                whole = base.numel() // kind.itemsize * kind.itemsize
                view = views[dtype] = base[:whole].view(kind)
            # One call of torch's for a tensor: there may be tens of thousands.
            return view.as_strided(shape, self.strides(shape), view.storage_offset() + offset // kind.itemsize)

        return tensor

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a tensor in C order, in elements."""
        known = self._strides.get(shape)
        if known is None:
            steps = [1]
            for size in reversed(shape[1:]):
                steps.append(steps[-1] * max(size, 1))
            known = self._strides[shape] = tuple(reversed(steps[: len(shape)]))
        return known

    def device(self, name: str) -> str:
        """A GPU as torch counts it: "cuda" is its current one."""
        cuda = self.torch.cuda
        if not cuda.is_available():
            built = "is built for the CPU" if self.torch.version.cuda is None else "finds no CUDA device"
            raise ConfigError(
                f'device={name!r}: this torch ({self.torch.__version__}) {built}; install one for CUDA, or use device="cpu", or '
                'framework="dlpack", whose arrays any framework takes'
            )
        return f"cuda:{cuda.current_device()}" if name == "cuda" else name

    def empty(self, nbytes: int, device: str) -> tuple[Any, int]:
        """Memory of torch's on a GPU, and the stream on which it is torch's to write."""
        memory = self.torch.empty(nbytes, dtype=self.torch.uint8, device=device)
        return memory, self.torch.cuda.current_stream(device).cuda_stream

    def contiguous(self, part: Any) -> Any:
        """A tensor in C order."""
        return part.contiguous()


class Numpy:
    """numpy arrays over memory that the group's arrays share."""

    def __init__(self) -> None:
        import numpy

        self.numpy = numpy
        self._dtypes: dict[str, Any] = {}

    def dtype(self, name: str) -> Any:
        """numpy's type; bytes where elements are packed."""
        known = self._dtypes.get(name)
        if known is None:
            known = self._dtypes[name] = self.numpy.dtype(self._find(name))
        return known

    def _find(self, name: str) -> Any:
        if name in _NUMPY:
            return _NUMPY[name]
        if BITS[name] < 8:
            return "<u1"
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(
                f"numpy has no type for {name}: install ml_dtypes, or take torch tensors (framework='pt')"
            ) from None
        found = getattr(ml_dtypes, _ML_DTYPES[name], None)
        if found is None:
            raise TypeError(f"this ml_dtypes ({ml_dtypes.__version__}) has no type for {name}: install a newer one")
        return found

    def base(self, memory: Any) -> Any:
        """A group's memory."""
        return self.numpy.asarray(memory)

    def tensors(self, base: Any) -> Callable[[int, int, str, tuple[int, ...]], Any]:
        """What makes an array of a group, of its first byte there, its bytes, dtype and shape."""

        def tensor(offset: int, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Any:
            kind = self.dtype(dtype)
            if BITS[dtype] < 8:
                shape = packed(dtype, shape)
            if nbytes == 0:
                return self.numpy.empty(shape, kind)
            return base[offset : offset + nbytes].view(kind).reshape(shape)

        return tensor

    def contiguous(self, part: Any) -> Any:
        """An array in C order; a number as an array of no dimension."""
        return self.numpy.ascontiguousarray(part).reshape(part.shape)


class Dlpack:
    """Arrays of Forebay's own on a GPU, which any framework takes by DLPack; bytes where it has no type."""

    def base(self, memory: Any) -> Any:
        """A group's memory."""
        return memory

    def tensors(self, base: Any) -> Callable[[int, int, str, tuple[int, ...]], Any]:
        """What makes an array of a group, of its first byte there, its bytes, dtype and shape."""

        def tensor(offset: int, _nbytes: int, dtype: str, shape: tuple[int, ...]) -> Any:
            name = _TORCH.get(dtype, "uint8")
            if BITS[dtype] < 8:
                name, shape = "uint8", packed(dtype, shape)
            elif name.startswith("float8"):
                name = "uint8"
            return base._part(offset, name, list(shape))

        return tensor


def framework(name: Any) -> Torch | Numpy | Dlpack:
    """What makes tensors, by safetensors' names."""
    if name in ("pt", "torch", "pytorch"):
        return Torch()
    if name in ("np", "numpy"):
        return Numpy()
    if name == "dlpack":
        return Dlpack()
    raise ConfigError(f'framework={name!r}: give "pt" for torch tensors, "np" for numpy arrays, or on a GPU "dlpack"')
