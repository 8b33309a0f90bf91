"""safetensors: its files loaded into tensors that own their memory.

`load_file` maps a file by default: its tensors are windows into the page cache, and nothing is loaded yet. `how` says how
they come to memory of their own: "mmap" clones each mapped tensor, "pread" has load_file read.

https://huggingface.co/docs/safetensors/api/torch
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..child import Meter, main
from .loaded import measure


def run(settings: dict[str, Any], meter: Meter) -> None:
    load = {"mmap": cloned, "pread": read}[settings["how"]]
    measure(settings, meter, lambda: {name: each for file in settings["files"] for name, each in load(file).items()})


def cloned(file: str) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name).clone() for name in opened.offset_keys()}


def read(file: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(file, backend="pread")
    return tensors


if __name__ == "__main__":
    main(run)
