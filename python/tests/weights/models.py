"""Models of several files, and what must come of them; opened with small limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from written import Tensor, bits, tensor, write

MIB = 1 << 20
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Model:
    """Files in a folder with an index, and the tensors in them by name."""

    folder: Path
    files: list[Path]
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def is_whole(self, loaded: dict[str, Any]) -> bool:
        """Every tensor is there, and every byte of it right."""
        return loaded.keys() == self.tensors.keys() and all(self.has(name, loaded[name]) for name in loaded)

    def has(self, name: str, loaded: Any) -> bool:
        """This is the tensor of that name, to the last byte."""
        return bool(bits(loaded)[-1] == self.tensors[name].data)


def make(folder: Path, *, seed: int = 0, files: int = 2, large: int = 3, mib: int = 3) -> Model:
    """Files of `large` matrices of so many MiB each with two small tensors behind each. Another seed, other bytes everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths, everything, index = [], {}, {}
    for file in range(1, files + 1):
        tensors = {}
        for layer in range(large):
            tensors[f"{file}.{layer}.weight"] = tensor(rng, "U8", (mib, 1024, 1024))
            tensors[f"{file}.{layer}.bias"] = tensor(rng, "F16", (1000,))
            tensors[f"{file}.{layer}.scale"] = tensor(rng, "U8", ())
        path = folder / f"model-{file:05}-of-{files:05}.safetensors"
        write(path, tensors)
        index |= dict.fromkeys(tensors, path.name)
        everything |= tensors
        paths.append(path)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return Model(folder, paths, everything)


def limits(folder: Path, **more: Any) -> dict[str, Any]:
    """Options of an open model with a cache folder of the test's own."""
    return {"cache_dir": folder / "cache", "cache_limit": "1GB", "host_memory_limit": "128MB", **more}
