"""Forebay: weights into memory of their own, from its cache folder, from its host tier, from files where they lie, or from S3
while the cache folder is written."""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  # As for every peer, its import is done before.
from forebay import weights

from ..child import Meter, main
from .loaded import Tensors, measure


def run(settings: dict[str, Any], meter: Meter) -> None:
    opened: list[weights.Weights] = []
    came: dict[str, int] = {}

    def load() -> Tensors:
        # Opening is measured, but for a load from the host tier, which the same model has filled.
        model = opened[0] if opened else weights.open(settings["urls"], **settings["options"])
        opened[:] = [model]
        before = model.stats
        tensors = model.load()
        came.update({tier: nbytes - before[tier] for tier, nbytes in model.stats.items()})
        if settings.get("synced"):
            # What is still being written belongs to it.
            model.close()
        return tensors

    measure(settings, meter, load)
    opened[0].close()
    meter.extra["stats"] = came
    if max(came, key=lambda tier: came[tier]) != settings["tier"]:
        raise SystemExit(f"most bytes came not from {settings['tier']}: {came}")


if __name__ == "__main__":
    main(run)
