"""Weights to load: safetensors files of random bf16, as a model's are laid out, and a checksum of every tensor."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]

# Disks may compress zeros, and bits that repeat: all of them are drawn.
CHUNK_BYTES = 32 << 20
BF16_BYTES = 2
FILES = 2

LAYERS = 27
EXPERTS = 128
EXPERT_LAYERS = 48


@dataclass(frozen=True)
class Model:
    """Files on a disk."""

    files: list[Path]
    tensors: int
    nbytes: int
    """Of all tensors, without the headers."""
    checksums: Path
    """JSON: each tensor's CRC-32 by its name."""

    def remove(self) -> None:
        for file in self.files:
            file.unlink(missing_ok=True)


def dense(width: int) -> list[dict[str, Shape]]:
    """300 tensors as a model of 1.8 billion parameters has them where the width is 2048: 3.54 GB. By file."""
    files: list[dict[str, Shape]] = [{"model.embed_tokens.weight": (49 * width, width)}, {}]
    for layer in range(LAYERS):
        matrices = {
            "mlp.down_proj": (width, 3 * width), "mlp.gate_proj": (3 * width, width), "mlp.up_proj": (3 * width, width),
            "self_attn.k_proj": (width // 2, width), "self_attn.o_proj": (width, width),
            "self_attn.q_proj": (width, width), "self_attn.v_proj": (width // 2, width),
        }  # fmt: skip
        vectors = {
            "input_layernorm": (width,), "post_attention_layernorm": (width,),
            "self_attn.k_norm": (128,), "self_attn.q_norm": (128,),
        }  # fmt: skip
        named = {f"model.layers.{layer}.{name}.weight": shape for name, shape in {**matrices, **vectors}.items()}
        files[layer >= LAYERS // 2] |= named
    files[1] |= {"model.norm.weight": (width,), "lm_head.weight": (49 * width, width)}
    return files


def experts(nbytes: int) -> list[dict[str, Shape]]:
    """18,867 tensors, as many as a mixture of experts of 30 billion parameters has, all of one size, which come to about so many
    bytes. By file."""
    layers = range(EXPERT_LAYERS)
    parts = [
        "input_layernorm", "mlp.gate", "post_attention_layernorm", "self_attn.k_norm", "self_attn.k_proj",
        "self_attn.o_proj", "self_attn.q_norm", "self_attn.q_proj", "self_attn.v_proj",
        *(f"mlp.experts.{expert}.{name}_proj" for expert in range(EXPERTS) for name in ("down", "gate", "up")),
    ]  # fmt: skip
    names = [f"model.layers.{layer}.{part}.weight" for layer in layers for part in parts]
    names += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    columns = 64
    rows = max(round(nbytes / len(names) / BF16_BYTES / columns), 1)
    half = len(names) // FILES
    return [dict.fromkeys(part, (rows, columns)) for part in (names[:half], names[half:])]


def write(folder: Path, files: list[dict[str, Shape]], seed: int = 0) -> Model:
    """Writes them into a folder, with their checksums beside it."""
    folder.mkdir(parents=True)
    paths, checksums, total = [], {}, 0
    for number, tensors in enumerate(files):
        paths.append(folder / f"model-{number + 1:05}-of-{len(files):05}.safetensors")
        sizes = {name: BF16_BYTES * int(np.prod(tensors[name])) for name in sorted(tensors)}
        chunks = drawn(sum(sizes.values()), seed + number)
        with paths[-1].open("wb") as file:
            file.write(header(tensors, sizes))
            rest = memoryview(b"")
            for name, size in sizes.items():
                checksum = 0
                while size:
                    rest = rest or next(chunks)
                    part, rest = rest[:size], rest[size:]
                    file.write(part)
                    checksum = zlib.crc32(part, checksum)
                    size -= len(part)
                checksums[name] = checksum
        total += sum(sizes.values())
    beside = folder.with_suffix(".checksums.json")
    beside.write_text(json.dumps(checksums))
    return Model(paths, len(checksums), total, beside)


def header(tensors: dict[str, Shape], sizes: dict[str, int]) -> bytes:
    """What a safetensors file begins with, up to the first tensor's first byte."""
    entries, at = {}, 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "BF16", "shape": tensors[name], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def drawn(nbytes: int, seed: int) -> Iterator[memoryview]:
    """So many random bytes, in chunks."""
    numbers = np.random.Generator(np.random.SFC64(seed))
    for at in range(0, nbytes, CHUNK_BYTES):
        yield memoryview(numbers.bytes(min(CHUNK_BYTES, nbytes - at)))
