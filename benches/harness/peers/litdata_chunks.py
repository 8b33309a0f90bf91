"""LitData: the photographs optimized into its chunks, JPEGs as they are, in worker processes; decoding by torchvision.io.

As https://lightning.ai/docs/litdata/quick-start and https://github.com/Lightning-AI/litData#readme have it: `optimize` with
chunks of 64 MB, StreamingDataset with shuffle and drop_last, StreamingDataLoader with workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import litdata

from ..child import Meter, converted, epochs, main, members
from .transforms import WithTorchvision, collate


class Decode:
    """A sample's bytes to a tensor."""

    def __init__(self, check: bool) -> None:
        self.image = WithTorchvision(check)

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, int]:
        return self.image(sample["jpg"]), sample["cls"]


def samples(shard: str) -> Iterator[dict[str, Any]]:
    for jpeg, label in members([shard], "jpg", "cls"):
        yield {"jpg": jpeg, "cls": int(label)}


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        litdata.optimize(
            fn=samples,
            inputs=settings["shards"],
            output_dir=folder,
            chunk_bytes="64MB",
            num_workers=1,
            keep_data_ordered=True,
            reorder_files=False,
            verbose=False,
        )

    check = bool(settings.get("check"))
    dataset = litdata.StreamingDataset(
        converted(settings, convert),
        shuffle=not check,
        drop_last=True,
        seed=settings["seed"],
        transform=Decode(check),
    )
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["threads"],
        collate_fn=collate,
        drop_last=True,
        persistent_workers=True,
    )

    def batches() -> Iterator[tuple[Any, Any]]:
        return iter(loader)

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
