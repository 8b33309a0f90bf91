"""DALI's CPU pipeline: tar shards with their index, random crops decoded alone, resize, flip. Runs without a GPU.

As in DALI's own documentation: https://docs.nvidia.com/deeplearning/dali/user-guide/docs/ (readers.webdataset,
decoders.image_random_crop, resize, flip). The reader maps files (its default, and its fastest for local ones), shuffles in
its buffer, and reads ahead; batches are taken as they come, without a copy. Indexes are made once, by its wds2idx.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from nvidia.dali import pipeline_def
from wds2idx import IndexCreator

from ..child import Meter, converted, epochs, main


@pipeline_def  # type: ignore[untyped-decorator]
def training(paths: list[str], index_paths: list[str], check: bool) -> Any:
    jpegs, labels = fn.readers.webdataset(
        paths=paths,
        index_paths=index_paths,
        ext=["jpg", "cls"],
        missing_component_behavior="error",
        random_shuffle=not check,
        initial_fill=1024,
        read_ahead=True,
        name="reader",
    )
    if check:
        images = fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)
        images = fn.resize(images, resize_shorter=256, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.crop(images, crop=(224, 224)), labels
    images = fn.decoders.image_random_crop(
        jpegs,
        device="cpu",
        output_type=types.RGB,
        random_area=[0.08, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
    )
    images = fn.resize(images, resize_x=224, resize_y=224, interp_type=types.INTERP_LINEAR, antialias=True)
    images = fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))
    return images, labels


def run(settings: dict[str, Any], meter: Meter) -> None:
    def convert(folder: str) -> None:
        Path(folder).mkdir()
        for shard in settings["shards"]:
            with IndexCreator(shard, f"{folder}/{Path(shard).stem}.idx", verbose=False) as creator:
                creator.create_index()

    indexes = converted(settings, convert)
    pipeline = training(
        settings["shards"],
        [f"{indexes}/{Path(shard).stem}.idx" for shard in settings["shards"]],
        bool(settings.get("check")),
        batch_size=settings["batch_size"],
        num_threads=settings["threads"],
        device_id=None,
        seed=settings["seed"],
        prefetch_queue_depth=2,
    )
    pipeline.build()

    def batches() -> Iterator[tuple[Any, Any]]:
        for _ in range(settings["samples"] // settings["batch_size"]):
            images, labels = pipeline.run()
            yield np.asarray(images.as_tensor()), labels

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
