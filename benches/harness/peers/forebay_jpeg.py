"""Forebay, through its Python package.

A process that finds the shards in its cache folder reads them from NVMe, all the time: only what comes from the origin enters
the host tier. The harness brings them there beforehand, by a process of its own, or empties the folder.
"""

from __future__ import annotations

from typing import Any

from ..child import Meter, keep, main, phases
from .forebay_training import only_from, training


def run(settings: dict[str, Any], meter: Meter) -> None:
    with training(settings) as loader:
        for epoch, phase in enumerate(phases(settings, meter)):
            before = loader.stats()
            with phase:
                for batch in loader:
                    image = memoryview(batch["image"])
                    meter.batch(image.shape, {"B": "uint8"}.get(image.format, image.format))
                    if settings.get("check"):
                        return keep(settings["check"], image)
                    del image, batch
            stats = loader.stats().since(before)
            if epoch:
                only_from(settings["tier"], stats)
        meter.extra["stats"] = stats.as_dict()


if __name__ == "__main__":
    main(run)
