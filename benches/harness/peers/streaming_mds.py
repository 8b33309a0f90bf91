"""MosaicML Streaming: the photographs as MDS shards, read through torch's DataLoader; decoding by Pillow.

As https://docs.mosaicml.com/projects/streaming/en/stable/getting_started/quick_start.html: a StreamingDataset whose __getitem__
decodes, told the batch size; its default shuffle; shards are local already, so nothing is copied. JPEGs are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import streaming
from torch.utils.data import DataLoader

from ..child import Meter, converted, epochs, main, members
from .transforms import WithPillow, collate


class Photographs(streaming.StreamingDataset):  # type: ignore[misc]
    def __init__(self, image: WithPillow, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.image = image

    def __getitem__(self, at: int) -> tuple[Any, int]:
        sample = super().__getitem__(at)
        return self.image(sample["jpg"]), sample["cls"]


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        with streaming.MDSWriter(out=folder, columns={"jpg": "bytes", "cls": "int"}) as writer:
            for jpeg, label in members(settings["shards"], "jpg", "cls"):
                writer.write({"jpg": jpeg, "cls": int(label)})

    check, batch_size = bool(settings.get("check")), settings["batch_size"]
    # What a run that was ended left behind would be waited for.
    streaming.base.util.clean_stale_shared_memory()
    dataset = Photographs(
        WithPillow(check),
        local=converted(settings, convert),
        batch_size=batch_size,
        shuffle=not check,
        shuffle_seed=settings["seed"],
    )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
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
