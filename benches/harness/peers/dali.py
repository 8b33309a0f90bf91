"""DALI's CPU pipeline: tar shards with their index, random crops decoded alone, resize, flip. Runs without a GPU.

As in DALI's own documentation: https://docs.nvidia.com/deeplearning/dali/user-guide/docs/ (readers.webdataset,
decoders.image_random_crop, resize, flip). The reader maps files (its default, and its fastest for local ones), shuffles in
its buffer, and reads ahead; batches are taken as they come, without a copy.
"""

from __future__ import annotations

from typing import Any

import nvidia.dali.fn as fn
import nvidia.dali.types as types
from nvidia.dali import pipeline_def

from ..child import Meter, main


@pipeline_def  # type: ignore[untyped-decorator]
def training(paths: list[str], index_paths: list[str]) -> Any:
    jpegs, labels = fn.readers.webdataset(
        paths=paths,
        index_paths=index_paths,
        ext=["jpg", "cls"],
        missing_component_behavior="error",
        random_shuffle=True,
        initial_fill=1024,
        read_ahead=True,
        name="reader",
    )
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
    pipeline = training(
        settings["shards"],
        settings["indexes"],
        batch_size=settings["batch_size"],
        num_threads=settings["threads"],
        device_id=None,
        seed=settings["seed"],
        prefetch_queue_depth=2,
    )
    pipeline.build()
    batches = settings["samples"] // settings["batch_size"]
    for epoch in range(1 + settings["epochs"]):
        with meter.warm_up() if epoch == 0 else meter.measure():
            for _ in range(batches):
                images, labels = pipeline.run()
                meter.batch(images.as_tensor().shape(), "uint8" if images.dtype == types.UINT8 else str(images.dtype))
                del images, labels


if __name__ == "__main__":
    main(run)
