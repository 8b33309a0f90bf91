"""SPDL: a pipeline of threads, decoding and resizing by FFmpeg's libraries without Python's lock.

As its WebDataset example reads tar files (spdl.io.iter_tarfile) and its image example decodes batches, as many at once as there
are threads: https://facebookresearch.github.io/spdl/latest/examples/image_dataloading.html and
https://github.com/facebookresearch/spdl/blob/main/examples/webdataset_pipeline.py. Geometry is an FFmpeg filter, with a random
box per image. Needs FFmpeg's libraries (4 to 9) on the system.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import spdl.io
from spdl.pipeline import PipelineBuilder

from ..child import Meter, epochs, main
from .box import random_box

CHECK = "scale=w=256:h=256:force_original_aspect_ratio=increase:flags=bilinear,crop=224:224,format=pix_fmts=rgb24"


def run(settings: dict[str, Any], meter: Meter) -> None:
    check, draws = bool(settings.get("check")), random.Random(settings["seed"])

    def shards() -> Iterator[str]:
        while True:
            yield from settings["shards"] if check else draws.sample(settings["shards"], len(settings["shards"]))

    def samples(path: str) -> Iterator[tuple[bytes, int]]:
        with open(path, "rb") as file:
            members = spdl.io.iter_tarfile(file.read())
        for (_, jpeg), (_, label) in zip(members, members, strict=True):
            yield bytes(jpeg), int(bytes(label))

    def image(jpeg: bytes) -> Any:
        packets = spdl.io.demux_image(jpeg)
        if check:
            return spdl.io.decode_packets(packets, filter_desc=CHECK)
        left, top, width, height = random_box(packets.width, packets.height)
        flip = "hflip," if random.random() < 0.5 else ""
        geometry = f"crop={width}:{height}:{left}:{top},scale=224:224:flags=bilinear,{flip}format=pix_fmts=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=geometry)

    def batch(samples: list[tuple[bytes, int]]) -> tuple[Any, list[int]]:
        frames = [image(jpeg) for jpeg, _ in samples]
        return spdl.io.to_numpy(spdl.io.convert_frames(frames)), [label for _, label in samples]

    threads = settings["threads"]
    pipeline = (
        PipelineBuilder()
        .add_source(shards())
        .pipe(samples)
        .aggregate(settings["batch_size"])
        .pipe(batch, concurrency=threads, output_order="input" if check else "completion")
        .add_sink(2)
        .build(num_threads=threads + 1)  # one more reads the shards
    )
    with pipeline.auto_stop():
        endless = iter(pipeline)

        def batches() -> Iterator[tuple[Any, Any]]:
            return islice(endless, settings["samples"] // settings["batch_size"])

        epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
