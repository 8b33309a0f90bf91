"""MosaicML Streaming on small records: MDS shards with an array and a JSON column, in torch's DataLoader workers.

As streaming_mds, see there; arrays of one dtype and shape are the encoding that its documentation names for them:
https://docs.mosaicml.com/projects/streaming/en/stable/preparing_datasets/dataset_format.html.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import streaming
from torch.utils.data import DataLoader

from ..child import Meter, converted, epochs, main, members
from .records import collate


class Records(streaming.StreamingDataset):  # type: ignore[misc]
    def __getitem__(self, at: int) -> tuple[Any, Any]:
        sample = super().__getitem__(at)
        return sample["npy"], sample["json"]


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        columns = {"npy": f"ndarray:float32:{settings['features']}", "json": "json"}
        with streaming.MDSWriter(out=folder, columns=columns) as writer:
            for array, text in members(settings["shards"], "npy", "json"):
                writer.write({"npy": np.load(io.BytesIO(array)), "json": json.loads(text)})

    check, batch_size = bool(settings.get("check")), settings["batch_size"]
    streaming.base.util.clean_stale_shared_memory()
    dataset = Records(
        local=converted(settings, convert), batch_size=batch_size, shuffle=not check, shuffle_seed=settings["seed"]
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
