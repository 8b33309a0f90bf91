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
    steps: list[Any] = [forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]
    if settings.get("convert"):
        steps += [forebay.Normalize(MEAN, STD), forebay.Cast("float16"), forebay.Layout("NCHW")]
    rows = 0
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        seed=0,
        drop_last=True,
        num_threads=settings["threads"],
        fields={
            "image": forebay.Image("jpg", transform=steps),
            "label": forebay.Int("cls"),
        },
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
        device=settings["device"],
    ) as loader:
        before = loader.stats()
        for number, phase in enumerate(phases(settings, meter)):
            if number == 1:
                # The first epoch has warmed up.
                before = loader.stats()
            with phase:
                for batch in loader:
                    image = batch["image"]
                    meter.batch(image.shape, image.dtype)
                    rows += len(image)
                    if settings["device"] != "cpu":
                        # What a framework does: its stream waits for the batch, and the batch is let go.
                        image.__dlpack__(stream=1, max_version=(1, 0))
                    del image, batch
                    if pause:
                        time.sleep(pause)
        stats = loader.stats()
        meter.extra["device"] = stats.device
        meter.extra["stall_seconds"] = stats.since(before).stall_seconds
        # What decoders make of an image and a label, whatever the device makes of it.
        meter.extra["decoded_bytes"] = rows * (224 * 224 * 3 + 8)


if __name__ == "__main__":
    main(run)
