"""Forebay: weights to a device of the simulated driver, which counts what crosses its bus."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from forebay import weights

from ..child import Meter, main
from .loaded import check

# As DLPack numbers it.
CPU = 1


def run(settings: dict[str, Any], meter: Meter) -> None:
    count = ctypes.CDLL("libcuda.so.1").forebay_fake_counter
    count.restype = ctypes.c_uint64
    with weights.open(settings["urls"], **settings["options"]) as model:
        nbytes = sum(model.info(name).nbytes for name in model.keys())  # noqa: SIM118  # Its own name for them.
        with meter.measure():
            tensors = model.load(device="cuda:0", framework="dlpack")
            crossed = {name: count(name.encode()) for name in ("h2d_bytes", "h2d_copies")}
        meter.samples = nbytes / 1e9
        meter.extra |= {"tensors": len(tensors), "tensor_bytes": nbytes, **crossed}
        # Back to host memory, to be compared.
        check({name: fetched(tensor) for name, tensor in tensors.items()}, Path(settings["checksums"]))


def fetched(tensor: Any) -> torch.Tensor:
    return torch.from_dlpack(tensor.__dlpack__(dl_device=(CPU, 0), copy=True, max_version=(1, 0)))


if __name__ == "__main__":
    main(run)
