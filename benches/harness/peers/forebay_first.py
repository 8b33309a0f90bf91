"""Forebay's first batch: from the making of the loader, and from `iter()`, on; from a state where there is one."""

from __future__ import annotations

import time
from typing import Any

from ..child import Meter, main
from .forebay_training import only_from, training


def run(settings: dict[str, Any], meter: Meter) -> None:
    with meter.measure():
        loader = training(settings)
        if "state" in settings:
            loader.load_state_dict(settings["state"])
        made = time.perf_counter()
        batch = next(iter(loader))
        iterated = time.perf_counter() - made
        if "tier" in settings:
            only_from(settings["tier"], loader.stats())
        meter.batch(memoryview(batch["image"]).shape, "uint8")
    with loader:
        # Less is better: seconds, in place of a rate.
        meter.extra |= {"value": meter.seconds, "from_iter_seconds": iterated, "stats": loader.stats().as_dict()}
        meter.extra["state"] = loader.state_dict()


if __name__ == "__main__":
    main(run)
