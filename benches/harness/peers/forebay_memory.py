"""Forebay over some epochs, with an eye on the process's memory."""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, main, status


def run(settings: dict[str, Any], meter: Meter) -> None:
    series = []
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        drop_last=True,
        num_threads=settings["threads"],
        fields={
            "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]),
            "label": forebay.Int("cls"),
        },
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
    ) as loader:
        for _ in range(settings["epochs"]):
            with meter.measure():
                for batch in loader:
                    meter.batch(memoryview(batch["image"]).shape, "uint8")
                    del batch
            series.append(status("VmRSS"))
        meter.extra |= {"series": series, "stats": loader.stats().as_dict()}


if __name__ == "__main__":
    main(run)
