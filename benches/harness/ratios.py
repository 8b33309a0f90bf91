"""Ratios between contenders of one case, and how much they vary from round to round."""

from __future__ import annotations

import statistics
from typing import Any


def is_ours(contender: str) -> bool:
    return contender.startswith("forebay")


def limit_of(result: dict[str, Any], case: str) -> str | None:
    """The contender that is a case's limit: the one that the workload names, or whose name begins with "limit"."""
    named: str | None = result.get("limits", {}).get(case)
    if named is not None:
        return named
    names = (row["contender"] for row in result["rows"] if row["case"] == case)
    return next((name for name in names if name.startswith("limit")), None)


def by_round(result: dict[str, Any], case: str, ours: str, theirs: str) -> list[float]:
    """How many times better `ours` was than `theirs`, in each round that both have finished."""
    rounds: dict[str, dict[int, float]] = {ours: {}, theirs: {}}
    for run in result["runs"]:
        if run["case"] == case and run["contender"] in rounds and run.get("value"):
            rounds[run["contender"]][run["round"]] = run["value"]
    both = sorted(rounds[ours].keys() & rounds[theirs].keys())
    less = result.get("better", "more") == "less"
    pairs = ((rounds[ours][at], rounds[theirs][at]) for at in both)
    return [theirs_ / ours_ if less else ours_ / theirs_ for ours_, theirs_ in pairs]


def noise(ratios: list[float]) -> float | None:
    """Half of their range, as a part of their median: how far a ratio may be off. None where a single round tells nothing."""
    if len(ratios) < 2:
        return None
    return (max(ratios) - min(ratios)) / 2 / statistics.median(ratios)
