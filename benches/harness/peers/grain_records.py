"""Grain: the photographs as ArrayRecord, its recommended source of random access, in worker processes; decoding by Pillow.

As the tutorials dataset_basic_tutorial and data_sources/arrayrecord_data_source_tutorial have it
(https://google-grain.readthedocs.io/en/latest/): shuffled globally, mapped and batched as a MapDataset, then mp_prefetch with one
worker per core, each with one reading thread; records in groups of one for random access.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from ..child import Meter, converted, epochs, main, members
from ..pixels import fixed
from .box import random_box


class Decode(grain.transforms.Map):  # type: ignore[misc]
    def __init__(self, check: bool) -> None:
        self.check = check

    def map(self, record: bytes) -> tuple[Any, int]:
        jpeg, label = pickle.loads(record)
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return np.asarray(fixed(image) if self.check else augmented(image)), label


def augmented(image: Image.Image) -> Image.Image:
    left, top, width, height = random_box(*image.size)
    image = image.resize((224, 224), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if np.random.random() < 0.5 else image


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        Path(folder).mkdir()
        writer = ArrayRecordWriter(f"{folder}/photographs.array_record", "group_size:1")
        for jpeg, label in members(settings["shards"], "jpg", "cls"):
            writer.write(pickle.dumps((jpeg, int(label))))
        writer.close()

    check, batch_size = bool(settings.get("check")), settings["batch_size"]
    source = grain.sources.ArrayRecordDataSource(f"{converted(settings, convert)}/photographs.array_record")
    dataset = grain.MapDataset.source(source).seed(settings["seed"])
    if not check:
        dataset = dataset.shuffle()
    dataset = dataset.repeat().map(Decode(check)).batch(batch_size, drop_remainder=True)
    endless = iter(
        dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * batch_size)).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=settings["threads"])
        )
    )

    def batches() -> Iterator[tuple[Any, Any]]:
        return islice(endless, settings["samples"] // batch_size)

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
