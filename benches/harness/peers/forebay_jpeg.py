"""Forebay, through its Python package, with the arguments of the README.

A process that finds the shards in its cache folder reads them from NVMe, all the time: only what comes from the origin enters
the host tier. The harness brings them there beforehand, by a process of its own.
"""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, keep, main


def run(settings: dict[str, Any], meter: Meter) -> None:
    check = settings.get("check")
    random = [forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=not check,
        seed=settings["seed"],
        drop_last=True,
        num_threads=settings["threads"],
        fields={
            "image": forebay.Image(
                "jpg",
                transform=[forebay.Resize(256), forebay.CenterCrop(224)] if check else random,
                decode=settings["decode"],
            ),
            "label": forebay.Int("cls"),
        },
        cache_dir=settings["cache_dir"],
        cache_limit=settings["cache_limit"],
        host_memory_limit=settings["host_memory_limit"],
    ) as loader:
        if check:
            image = memoryview(next(iter(loader))["image"])
            meter.batch(image.shape, {"B": "uint8"}.get(image.format, image.format))
            keep(check, image)
            return
        for epoch in range(1 + settings["epochs"]):
            before = loader.stats()
            with meter.warm_up() if epoch == 0 else meter.measure():
                for batch in loader:
                    array = memoryview(batch["image"])
                    meter.batch(array.shape, {"B": "uint8"}.get(array.format, array.format))
                    del array, batch
            stats = loader.stats().since(before)
            elsewhere = {tier for tier, read in stats.bytes_by_tier.items() if read} - {settings["tier"]}
            if elsewhere and epoch:
                raise SystemExit(f"meant to read from {settings['tier']}, and read {stats.bytes_by_tier}")
        meter.extra["stats"] = stats.as_dict()


if __name__ == "__main__":
    main(run)
