"""The loader of JPEG training, with the arguments of the README."""

from __future__ import annotations

from typing import Any

import forebay


def training(settings: dict[str, Any]) -> forebay.DataLoader:
    """Shuffled random crops; with `check`, the fixed geometry in storage order."""
    check = bool(settings.get("check"))
    random = [forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]
    return forebay.DataLoader(
        settings["shards"],
        batch_size=settings["batch_size"],
        shuffle=not check,
        seed=0,
        drop_last=True,
        num_threads=settings["threads"],
        fields={
            "image": forebay.Image(
                "jpg",
                transform=[forebay.Resize(256), forebay.CenterCrop(224)] if check else random,
                decode=settings.get("decode", "exact"),
            ),
            "label": forebay.Int("cls"),
        },
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
        host_memory_limit=settings["host_memory_limit"],
        storage_options=settings.get("storage_options"),
    )


def only_from(tier: str, stats: forebay.Stats) -> None:
    """Ends the program where a measured epoch read from elsewhere."""
    if {found for found, read in stats.bytes_by_tier.items() if read} != {tier}:
        raise SystemExit(f"meant to read from {tier}, and read {stats.bytes_by_tier}")
