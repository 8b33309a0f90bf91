"""Every JPEG of a bucket's tars as bytes, through Forebay's cache."""

from __future__ import annotations

from typing import Any

import forebay

from ..child import Meter, main


def run(settings: dict[str, Any], meter: Meter) -> None:
    with meter.measure():
        loader = forebay.DataLoader(
            settings["urls"],
            batch_size=64,
            shuffle=False,
            drop_last=False,
            num_threads=settings["threads"],
            fields={"image": forebay.Bytes("jpg")},
            storage_options=settings["storage_options"],
            cache_dir=settings["cache_dir"],
            cache_limit="20GB",
        )
        with loader:
            total = sum(len(image) for batch in loader for image in batch["image"])
    meter.samples = total / 1e9
    meter.extra["bytes"] = total


if __name__ == "__main__":
    main(run)
