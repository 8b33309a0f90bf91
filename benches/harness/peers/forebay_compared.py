"""A loader to a device beside one to host memory, of the same samples: every number compared.

`run` compares one pair of loaders over all fields. `Difference` and `compare` are for others that compare too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import forebay
import numpy as np

from ..child import Meter, main
from .forebay_device import MEAN, STD, steps


def run(settings: dict[str, Any], meter: Meter) -> None:
    made = steps(settings)
    if dtype := settings.get("dtype"):
        made += [forebay.Normalize(MEAN, STD), forebay.Cast(dtype)]
    if layout := settings.get("layout"):
        made += [forebay.Layout(layout)]
    fields = {"image": forebay.Image("jpg", transform=made), "label": forebay.Int("cls")}
    samples, total = 0, Difference()
    with (
        loader(settings, fields, device=settings["device"], **settings.get("on_device", {})) as ours,
        loader(settings, fields, **settings.get("on_host", {})) as theirs,
    ):
        for _ in range(settings.get("epochs", 1)):
            samples += compare(ours, theirs, dict.fromkeys(fields, total))
        meter.extra["samples_by_tier"] = ours.stats().samples_by_tier
    meter.extra["difference"] = {
        "samples": samples,
        "equal": total.differing == 0,
        "numbers_that_differ": total.differing,
        "largest_difference": total.largest,
    }


class Difference:
    """How far numbers of the device are from the CPU's."""

    def __init__(self) -> None:
        self.numbers = self.differing = 0
        self.largest = self.sum = 0.0

    def add(self, there: Any, here: Any) -> None:
        apart = np.abs(there.astype(np.float64) - here.astype(np.float64))
        self.numbers += there.size
        # NaN differs from everything.
        self.differing += int(np.count_nonzero(there != here))
        self.largest = max(self.largest, float(apart.max()))
        self.sum += float(apart.sum())


def compare(ours: Iterable[Any], theirs: Iterable[Any], into: dict[str, Difference]) -> int:
    """Adds an epoch's differences by field, and gives its samples."""
    samples = 0
    for left, right in zip(ours, theirs, strict=True):
        for name, difference in into.items():
            there = np.from_dlpack(left[name], device="cpu", copy=True)
            here = np.asarray(right[name])
            if (there.shape, there.dtype) != (here.shape, here.dtype):
                raise SystemExit(
                    f"{name} is {there.dtype}{there.shape} on the device, {here.dtype}{here.shape} in host memory"
                )
            difference.add(there, here)
        samples += right.valid
    return samples


def loader(settings: dict[str, Any], fields: dict[str, Any], **more: Any) -> forebay.DataLoader:
    return forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        seed=0,
        num_threads=settings["threads"],
        fields=fields,
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
        **more,
    )


if __name__ == "__main__":
    main(run)
