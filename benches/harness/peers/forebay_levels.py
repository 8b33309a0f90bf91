"""JPEG images decoded by a device beside those decoded by the CPU, by kinds of images: how many levels of 255 they are apart."""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, main
from .forebay_compared import Difference, compare, loader

# What is cut out unchanged has the decoders' own pixels; what is resized is what a training run sees.
FIELDS = {
    "decoded": forebay.Image("jpg", transform=[forebay.CenterCrop(224)]),
    "resized": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(224)]),
}


def run(settings: dict[str, Any], meter: Meter) -> None:
    kinds = {}
    for kind, shard in settings["kinds"].items():
        some = {**settings, "shards": [shard]}
        apart = {name: Difference() for name in FIELDS}
        with (
            loader(some, FIELDS, device=settings["device"], decode_on="gpu") as ours,
            loader(some, FIELDS) as theirs,
        ):
            samples = compare(ours, theirs, apart)
            device = ours.stats().device
        assert device
        jpeg = device["jpeg"]
        meter.extra |= {name: jpeg[name] for name in ("library", "backend", "passed_over")}
        kinds[kind] = {
            "images": samples * len(FIELDS),
            "on_device": jpeg["images"],
            "refused": jpeg["refused"],
            **{name: levels(difference) for name, difference in apart.items()},
        }
    meter.extra["kinds"] = kinds


def levels(difference: Difference) -> dict[str, Any]:
    return {
        "largest": int(difference.largest),
        "mean": difference.sum / difference.numbers,
        "share_that_differs": difference.differing / difference.numbers,
    }


if __name__ == "__main__":
    main(run)
