"""Forebay on small records: an array and a JSON document per sample, through its Python package."""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, keep, main, phases
from .forebay_training import only_from


def run(settings: dict[str, Any], meter: Meter) -> None:
    check = settings.get("check")
    with forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=not check,
        seed=settings["seed"],
        drop_last=True,
        num_threads=settings["threads"],
        fields={"features": forebay.Numpy("npy"), "about": forebay.Json("json")},
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
    ) as loader:
        for epoch, phase in enumerate(phases(settings, meter)):
            before = loader.stats()
            with phase:
                for batch in loader:
                    features, about = memoryview(batch["features"]), batch["about"]
                    if len(about) != len(features):
                        raise SystemExit(f"a batch has {len(features)} arrays and {len(about)} documents")
                    meter.batch(features.shape, {"f": "float32"}.get(features.format, features.format))
                    if check:
                        return keep(check, features)
                    del batch, features
            stats = loader.stats().since(before)
            if epoch:
                only_from(settings["tier"], stats)
        meter.extra["stats"] = stats.as_dict()


if __name__ == "__main__":
    main(run)
