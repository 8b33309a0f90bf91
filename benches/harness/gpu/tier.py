"""Epochs over decoded samples that stay on the device: their speed, what crosses the bus, and whether they are the CPU's."""

from __future__ import annotations

from typing import Any

from ..measure import Answer
from ..place import Place
from .loading import beside, bus, compared, epochs, figures, photographs, usual

# Of each sample's picture a row of a table crosses the bus, of each other field an address.
ROW_BYTES = 96 + 8
# As they are decoded, or resized to 256 before they stay: what the peers are told.
EPOCHS: dict[str, dict[str, Any]] = {"random_resized_crop": {}, "crop": {"crop": True}}


def measure(place: Place) -> Answer:
    """Each in a process of its own. The first epoch, which the CPU makes while samples come to the device, is not measured."""
    settings = {
        **usual(place, photographs(place)[:4]),
        "epochs": place.scaled(20, 2),
        "loader": {"gpu_decoded_limit": "2GB" if not place.small else "64MB"},
    }
    log = place.logs / "tier.log"
    found = {name: resident(epochs(place, {**settings, **more}, log)) for name, more in EPOCHS.items()}
    limit = "512MB" if not place.small else "64MB"
    both = {"on_device": {"gpu_decoded_limit": limit}, "on_host": {"decoded_limit": limit}}
    told = {**compared(place), **both, "epochs": 2}
    for name, more in EPOCHS.items():
        answer = beside(place, {**told, **more})
        hits = answer["samples_by_tier"]["gpu"]
        found[name]["compared"] = {**answer["difference"], "from_the_device": hits}
    return found


def resident(answer: Answer) -> Answer:
    """Of the measured epochs."""
    device = answer["device"]
    return {
        **figures(answer),
        "samples_by_tier": answer["samples_by_tier"],
        "kept_samples": device["decoded_samples"],
        "kept_bytes": device["decoded_bytes"],
        **bus(answer["copied_bytes"], answer["samples"] * ROW_BYTES),
    }


def wrong(found: Answer) -> list[str]:
    """A sample that didn't stay, and numbers that are not the CPU's."""
    lines = []
    for name, each in found.items():
        if any(each["samples_by_tier"][tier] for tier in each["samples_by_tier"] if tier != "gpu"):
            lines.append(
                f"{name}: samples came from {each['samples_by_tier']}, and all of them should stay on the device"
            )
        apart = each["compared"]
        if not apart["equal"]:
            lines.append(f"{name}: {apart['numbers_that_differ']} numbers differ from the CPU's")
        if apart["from_the_device"] * 2 != apart["samples"]:
            lines.append(
                f"{name}: {apart['from_the_device']} of {apart['samples']} compared samples came from the device"
            )
    return lines
