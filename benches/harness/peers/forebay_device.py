"""Forebay to a device: crops as batches in its memory, taken by a consumer that may need its time for each."""

from __future__ import annotations

import time
from typing import Any

import forebay

from ..child import Meter, main, phases


def run(settings: dict[str, Any], meter: Meter) -> None:
    pause = settings.get("consumer_seconds", 0.0)
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        seed=0,
        drop_last=True,
        num_threads=settings["threads"],
        fields={
            "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]),
            "label": forebay.Int("cls"),
        },
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
        device=settings["device"],
    ) as loader:
        for phase in phases(settings, meter):
            with phase:
                for batch in loader:
                    image = batch["image"]
                    meter.batch(image.shape, image.dtype)
                    if settings["device"] != "cpu":
                        # What a framework does: its stream waits for the batch, and the batch is let go.
                        image.__dlpack__(stream=1, max_version=(1, 0))
                    del image, batch
                    if pause:
                        time.sleep(pause)
        meter.extra["device"] = loader.stats().device


if __name__ == "__main__":
    main(run)
