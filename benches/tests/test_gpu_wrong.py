"""What `make gpu-check` calls wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from harness.gpu import jpeg, tier

SAME = {"largest": 0, "mean": 0.0, "share_that_differs": 0.0}
NEAR = {"largest": 31, "mean": 1.4, "share_that_differs": 0.7}
LEVELS: dict[str, Any] = {
    "levels": {
        "4:2:0": {"images": 16, "on_device": 16, "refused": {}, "decoded": NEAR, "resized": NEAR},
        "progressive": {"images": 16, "on_device": 0, "refused": {"unsupported": 16}, "decoded": SAME, "resized": SAME},
    }
}


def test_a_decoder_may_round_in_its_own_way_and_refuse_what_engines_do_not_take() -> None:
    assert jpeg.wrong(LEVELS) == []


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("4:2:0", {"on_device": 15}, "of 16 images 15 were decoded by the device, 0 refused"),
        ("4:2:0", {"on_device": 0, "refused": {"failed": 16}, "decoded": SAME, "resized": SAME}, "decoded none of 16"),
        ("4:2:0", {"decoded": {**NEAR, "mean": 40.0}}, "4:2:0, decoded: 40.0 levels from the CPU's"),
        ("progressive", {"resized": NEAR}, "progressive, resized: decoded by the CPU alone, and 31 levels from it"),
    ],
)
def test_what_no_decoder_may_do_is_wrong(kind: str, change: dict[str, Any], words: str) -> None:
    found = copy.deepcopy(LEVELS)
    found["levels"][kind] |= change
    (line,) = jpeg.wrong(found)
    assert words in line


KEPT: dict[str, Any] = {
    "crop": {
        "samples_by_tier": {"gpu": 64, "decoded": 0, "memory": 0, "nvme": 0, "origin": 0},
        "compared": {"samples": 64, "equal": True, "numbers_that_differ": 0, "from_the_device": 32},
    }
}


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("samples_by_tier", {"gpu": 60, "memory": 4}, "all of them should stay on the device"),
        ("compared", {"equal": False, "numbers_that_differ": 3}, "3 numbers differ from the CPU's"),
        ("compared", {"from_the_device": 0}, "0 of 64 compared samples came from the device"),
    ],
)
def test_samples_that_do_not_stay_or_are_not_the_cpus_are_wrong(part: str, change: dict[str, Any], words: str) -> None:
    assert tier.wrong(KEPT) == []
    found = copy.deepcopy(KEPT)
    found["crop"][part] |= change
    (line,) = tier.wrong(found)
    assert words in line
