"""Hugging Face datasets: the tar shards streamed as "webdataset", in torch's DataLoader workers; its own decoding, by Pillow.

As https://huggingface.co/docs/datasets/stream and https://huggingface.co/docs/datasets/use_with_pytorch have it: an
IterableDataset with a shuffle buffer, in DataLoader workers that share the shards out; the transform in the collation, as it
gives tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

from ..child import Meter, epochs, main
from .transforms import collate, geometry


class Transform:
    """A decoded sample to a tensor."""

    def __init__(self, check: bool) -> None:
        self.geometry = geometry(check)

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, int]:
        image = self.geometry(sample["jpg"].convert("RGB"))
        return torch.from_numpy(np.array(image)), int(sample["cls"])


class Collate:
    """Decoded samples to a batch."""

    def __init__(self, check: bool) -> None:
        self.transform = Transform(check)

    def __call__(self, samples: list[dict[str, Any]]) -> tuple[Any, Any]:
        return collate([self.transform(sample) for sample in samples])


def run(settings: dict[str, Any], meter: Meter) -> None:
    check = bool(settings.get("check"))
    dataset = datasets.load_dataset(
        "webdataset", data_files={"train": settings["shards"]}, split="train", streaming=True
    )
    if not check:
        dataset = dataset.shuffle(buffer_size=1000, seed=settings["seed"])
    loader = DataLoader(
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["threads"],
        collate_fn=Collate(check),
        drop_last=True,
        persistent_workers=True,
    )

    def batches() -> Iterator[tuple[Any, Any]]:
        return iter(loader)

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
