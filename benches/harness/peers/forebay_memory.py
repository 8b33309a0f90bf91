"""Forebay over some epochs, with an eye on the process's memory."""

from __future__ import annotations

from typing import Any

from ..child import Meter, main, status
from .forebay_training import training


def run(settings: dict[str, Any], meter: Meter) -> None:
    series = []
    with training(settings) as loader:
        for _ in range(settings["epochs"]):
            with meter.measure():
                for batch in loader:
                    meter.batch(memoryview(batch["image"]).shape, "uint8")
                    del batch
            series.append(status("VmRSS"))
        meter.extra |= {"series": series, "stats": loader.stats().as_dict()}


if __name__ == "__main__":
    main(run)
