"""WebDataset on small records: its own decoding of .npy and .json, batches made in torch's DataLoader workers.

As webdataset_torch, see there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import webdataset as wds

from ..child import Meter, epochs, main
from .records import collate


def run(settings: dict[str, Any], meter: Meter) -> None:
    check, shards = bool(settings.get("check")), settings["shards"]
    dataset = wds.WebDataset(shards, shardshuffle=False if check else len(shards), seed=settings["seed"]).repeat()
    if not check:
        dataset = dataset.shuffle(1000)
    dataset = dataset.decode().to_tuple("npy", "json")
    dataset = dataset.batched(settings["batch_size"], collation_fn=collate, partial=False)
    endless = iter(wds.WebLoader(dataset, batch_size=None, num_workers=settings["threads"]))

    def batches() -> Iterator[tuple[Any, Any]]:
        return islice(endless, settings["samples"] // settings["batch_size"])

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
