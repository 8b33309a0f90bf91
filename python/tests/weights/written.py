"""safetensors files written by hand, since the package can't write all that can be read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16, "BF16": 16,
    "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Every dtype of safetensors 0.8, and its bits."""

NUMPY = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64")
"""Those that numpy has without help."""

TORCH = tuple(dtype for dtype in BITS if not dtype.startswith("F6_"))
"""Those that torch has; F4 with two numbers in an element."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def tensor(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """One of any bits: NaNs of every kind, negative zeros, subnormals; of booleans 0 and 1."""
    count = int(np.prod(shape, dtype=np.int64)) * BITS[dtype]
    assert count % 8 == 0, f"{dtype} {shape} ends inside a byte"
    return Tensor(dtype, shape, rng.integers(0, 2 if dtype == "BOOL" else 256, count // 8, np.uint8).tobytes())


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file of this header (text, bytes, or what becomes JSON), of this length as far as it says."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header)
    coded = text.encode() if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(coded) if length is None else length) + coded + data)
    return path


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A right file, tensors in the order given, the header's entries in another one."""
    header: dict[str, Any] = {}
    end = 0
    for name, each in tensors.items():
        header[name] = entry(each.dtype, each.shape, (end, end + len(each.data)))
        end += len(each.data)
    listed = dict(sorted(header.items(), reverse=True))
    if metadata is not None:
        listed["__metadata__"] = metadata
    return raw(path, listed, b"".join(each.data for each in tensors.values()))


def bits(value: Any) -> tuple[Any, ...]:
    """What makes two tensors or arrays the same: kind, dtype, shape and every bit, NaNs and negative zeros included."""
    if isinstance(value, torch.Tensor):
        # Strides of one element may be anything, and a view asks for 1.
        flat = value.reshape(-1).clone(memory_format=torch.contiguous_format)
        return ("torch", value.dtype, tuple(value.shape), value.device.type, flat.view(torch.uint8).numpy().tobytes())
    if isinstance(value, (np.ndarray, np.generic)):
        return ("numpy", value.dtype, value.shape, np.ascontiguousarray(value).tobytes())
    return ("other", value)
