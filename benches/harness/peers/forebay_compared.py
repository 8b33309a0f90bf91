"""A loader to a device beside one to host memory, of the same samples: every number compared."""

from __future__ import annotations

from typing import Any

import forebay
import numpy as np

from ..child import Meter, main
from .forebay_device import MEAN, STD


def run(settings: dict[str, Any], meter: Meter) -> None:
    steps: list[Any] = [forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]
    if dtype := settings.get("dtype"):
        steps += [forebay.Normalize(MEAN, STD), forebay.Cast(dtype)]
    if layout := settings.get("layout"):
        steps += [forebay.Layout(layout)]
    fields = {"image": forebay.Image("jpg", transform=steps), "label": forebay.Int("cls")}
    samples = differ = 0
    largest = 0.0
    with (
        loader(settings, fields, device=settings["device"], **settings.get("on_device", {})) as ours,
        loader(settings, fields) as theirs,
    ):
        for left, right in zip(ours, theirs, strict=True):
            for name in fields:
                there = np.from_dlpack(left[name], device="cpu", copy=True)
                here = np.asarray(right[name])
                if (there.shape, there.dtype) != (here.shape, here.dtype):
                    raise SystemExit(
                        f"{name} is {there.dtype}{there.shape} on the device, {here.dtype}{here.shape} in host memory"
                    )
                differ += int(np.count_nonzero(there != here))
                largest = max(largest, float(np.abs(there.astype(np.float64) - here.astype(np.float64)).max()))
            samples += right.valid
    meter.extra["difference"] = {
        "samples": samples,
        "equal": differ == 0,
        "numbers_that_differ": differ,
        "largest_difference": largest,
    }


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
        host_memory_limit="1GB",
        **more,
    )


if __name__ == "__main__":
    main(run)
