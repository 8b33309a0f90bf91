"""How fast bytes get to the device: by the loader's way, and at most."""

from __future__ import annotations

import json

from ..measure import Answer, execute
from ..place import Place

# Of the pinned limit that is measured beside it.
GOAL = 0.9


def measure(place: Place) -> Answer:
    """Forebay's copies (slots of the pinned arena, `Staging`) of whole batches; the limit is the faster of plain copies of
    one large buffer, of the same arena or of the driver's own pinned memory. `reached` is of usual batches: 256 images."""
    log = place.logs / "copies.log"
    small = ["--batches=8,16", f"--buffer-bytes={1 << 20}", f"--bytes={4 << 20}", f"--rounds={place.rounds}"]
    options = small if place.small else [f"--rounds={place.rounds}"]
    ours = execute([place.program("device_copies"), "--device=cuda:0", *options], log)
    # The driver's own memory, by the device's own clock, in another process.
    buffer = {"bytes": place.scaled(256 << 20, 1 << 20), "times": place.scaled(64, 2)}
    drivers = execute([*place.peer("pinned_copies"), json.dumps(buffer)], log)
    limit = max(ours["pinned_gbps"]["median"], drivers["value"])
    for batches in ours["staged"]:
        batches["share_of_limit"] = batches["gbps"]["median"] / limit
    usual = next((each for each in ours["staged"] if each["batch"]["images"] == 256), ours["staged"][-1])
    return {
        "unit": "10⁹ bytes/s",
        "limit_gbps": limit,
        "pinned_arena_gbps": ours["pinned_gbps"],
        "pinned_by_driver_gbps": drivers["value"],
        "pageable_gbps": ours["pageable_gbps"],
        "staged": ours["staged"],
        "share_of_limit": usual["share_of_limit"],
        "goal": GOAL,
        "reached": usual["share_of_limit"] >= GOAL,
    }
