"""Forebay to a device: crops as batches in its memory, taken by a consumer that may need its time for each."""

from __future__ import annotations

import time
from typing import Any

import forebay

from ..child import Meter, main, phases

# ImageNet's, in units of 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run(settings: dict[str, Any], meter: Meter) -> None:
    pause = settings.get("consumer_seconds", 0.0)
    on_device = settings["device"] != "cpu"
    rows = 0
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        seed=0,
        drop_last=True,
        num_threads=settings["threads"],
        fields={"image": forebay.Image("jpg", transform=steps(settings)), "label": forebay.Int("cls")},
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
        device=settings["device"],
        **settings.get("loader", {}),
    ) as loader:
        before = loader.stats()
        for number, phase in enumerate(phases(settings, meter)):
            if number == 1:
                # The first epoch has warmed up.
                before = loader.stats()
            with phase:
                for batch in loader:
                    image, last = batch["image"], batch["label"]
                    meter.batch(image.shape, image.dtype)
                    rows += len(image)
                    if on_device:
                        # What a framework does: its stream waits for the batch, and the batch is let go.
                        image.__dlpack__(stream=1, max_version=(1, 0))
                    del image, batch
                    if pause:
                        time.sleep(pause)
                if on_device:
                    # What the device still does for the last batch belongs to the epoch: kernels that make batches of what stays
                    # there have one event for all columns.
                    last.__dlpack__(dl_device=(CPU, 0), copy=True, max_version=(1, 0))
                del last
        stats = loader.stats()
        meter.extra["device"] = stats.device
        meter.extra["stall_seconds"] = stats.since(before).stall_seconds
        meter.extra["samples_by_tier"] = stats.since(before).samples_by_tier
        meter.extra["copied_bytes"] = copied(stats) - copied(before)
        meter.extra["rows"] = rows


# As DLPack numbers it.
CPU = 1


def steps(settings: dict[str, Any]) -> list[Any]:
    """What is made of a photograph: a part of it resized, or a part of what was resized before; converted, or not."""
    if settings.get("crop"):
        made = [forebay.Resize(256), forebay.RandomCrop(224), forebay.RandomHorizontalFlip()]
    else:
        made = [forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]
    if settings.get("convert"):
        made += [forebay.Normalize(MEAN, STD), forebay.Cast("float16"), forebay.Layout("NCHW")]
    return made


def copied(stats: Any) -> int:
    """Bytes that crossed the bus, for batches and to stay."""
    device = stats.device or {}
    return sum(device.get(name, 0) for name in ("copied_bytes", "decoded_copied_bytes"))


if __name__ == "__main__":
    main(run)
