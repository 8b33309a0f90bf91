"""Forebay over decoded samples that stay in host memory: with `cold` the first epoch, which decodes them; else later ones."""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, main
from .forebay_training import only_from


def run(settings: dict[str, Any], meter: Meter) -> None:
    crops = [forebay.Resize(256), forebay.RandomCrop(224), forebay.RandomHorizontalFlip()]
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=True,
        seed=0,
        num_threads=settings["threads"],
        fields={"image": forebay.Image("jpg", transform=crops), "label": forebay.Int("cls")},
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        decoded_limit=settings["decoded_limit"],
        host_memory_limit=settings["host_memory_limit"],
    ) as loader:
        # Indexes are made before the clock runs: they are made once, not in every epoch.
        loader.count()
        for number in range(1 if settings.get("cold") else 1 + settings["epochs"]):
            before = loader.stats()
            measured = number > 0 or settings.get("cold")
            with meter.measure() if measured else meter.warm_up():
                for batch in loader:
                    image = memoryview(batch["image"])
                    meter.batch(image.shape, {"B": "uint8"}.get(image.format, image.format))
                    del image, batch
            stats = loader.stats().since(before)
            if number:
                only_from("decoded", stats)
        meter.extra["stats"] = stats.as_dict()


if __name__ == "__main__":
    main(run)
