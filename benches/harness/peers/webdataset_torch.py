"""WebDataset and torch's DataLoader; decoding by Pillow, or by torchvision.io.

As https://github.com/webdataset/webdataset#readme and https://github.com/tmbdev-archive/wds-distributed#readme have it: shards
and a buffer of samples shuffled, batches made in the workers ("important for efficiency, since transferring individual samples is
slow"), WebLoader with batch_size=None, and an endless stream instead of epochs, so that no worker waits at an epoch's end. With
`once`, where each worker has as many shards as the others, the stream ends after an epoch: nothing is read for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import webdataset as wds

from ..child import Meter, epochs, main
from .transforms import WithPillow, WithTorchvision, collate


def run(settings: dict[str, Any], meter: Meter) -> None:
    check = bool(settings.get("check"))
    image = {"pillow": WithPillow, "torchvision": WithTorchvision}[settings["images"]](check)
    shards = settings["shards"]
    dataset = wds.WebDataset(shards, shardshuffle=False if check else len(shards), seed=settings["seed"])
    if not settings.get("once"):
        dataset = dataset.repeat()
    if not check:
        dataset = dataset.shuffle(1000)
    dataset = dataset.to_tuple("jpg", "cls").map_tuple(image, int)
    dataset = dataset.batched(settings["batch_size"], collation_fn=collate, partial=False)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=settings["threads"])
    endless = iter(loader)

    def batches() -> Iterator[tuple[Any, Any]]:
        return islice(endless, settings["samples"] // settings["batch_size"])

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
