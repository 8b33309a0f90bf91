"""FFCV: the photographs as a .beton file with JPEGs in it, decoded and augmented in compiled loops, in threads.

As https://docs.ffcv.io/working_with_images.html, https://docs.ffcv.io/making_dataloaders.html and
https://docs.ffcv.io/parameter_tuning.html have it: RGBImageField in "jpg" mode, RandomResizedCropRGBImageDecoder, the page cache
and random order for a dataset that fits in memory. Its newest release, of 2023, builds only where OpenCV's and libturbojpeg's
headers are, which the environment does not bring: this program waits for a release that installs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter
from PIL import Image

from ..child import Meter, converted, epochs, main, members


class Photographs:
    """What the writer reads."""

    def __init__(self, shards: list[str]) -> None:
        self.samples = list(members(shards, "jpg", "cls"))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        jpeg, label = self.samples[at]
        return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), int(label)


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        Path(folder).mkdir()
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
        writer = DatasetWriter(f"{folder}/photographs.beton", fields, num_workers=settings["threads"])
        writer.from_indexed_dataset(Photographs(settings["shards"]))

    check = bool(settings.get("check"))
    crop = (
        [CenterCropRGBImageDecoder((224, 224), 224 / 256)] if check else [RandomResizedCropRGBImageDecoder((224, 224))]
    )
    loader = Loader(
        f"{converted(settings, convert)}/photographs.beton",
        batch_size=settings["batch_size"],
        num_workers=settings["threads"],
        order=OrderOption.SEQUENTIAL if check else OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        seed=settings["seed"],
        pipelines={
            "image": [*crop, *([] if check else [RandomHorizontalFlip()]), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )

    def batches() -> Iterator[tuple[Any, Any]]:
        return iter(loader)

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
