"""Spans out of a trace in Chrome's format: those of threads, which lie beside or inside each other, and those that overlap."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Span = tuple[float, float, str]


@dataclass(frozen=True)
class Trace:
    """Start and end in seconds from the first span of all, and the stage."""

    threads: dict[str, list[Span]]
    overlapping: dict[str, list[Span]]
    """Asynchronous ones, by their category."""

    @property
    def end(self) -> float:
        return max((end for lanes in (self.threads, self.overlapping) for _, end, _ in _all(lanes)), default=0.0)


def read(path: Path) -> Trace:
    """Raises ValueError, KeyError, TypeError or AttributeError where this is no trace."""
    content = json.loads(path.read_text())
    events: list[dict[str, Any]] = content["traceEvents"] if isinstance(content, dict) else content
    names: dict[tuple[Any, Any], str] = {}
    order: dict[tuple[Any, Any], int] = {}
    threads: dict[tuple[Any, Any], list[Span]] = defaultdict(list)
    overlapping: dict[str, list[Span]] = defaultdict(list)
    open_: dict[tuple[Any, Any], list[tuple[float, str]]] = defaultdict(list)
    begun: dict[tuple[Any, ...], float] = {}
    for event in events:
        thread = (event.get("pid"), event.get("tid"))
        match event["ph"]:
            case "M" if event["name"] == "thread_name":
                names[thread] = event["args"]["name"]
            case "M" if event["name"] == "thread_sort_index":
                order[thread] = event["args"]["sort_index"]
            case "X":
                threads[thread].append((event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6, event["name"]))
            case "B":
                open_[thread].append((event["ts"] / 1e6, event["name"]))
            case "E" if open_[thread]:
                start, stage = open_[thread].pop()
                threads[thread].append((start, event["ts"] / 1e6, stage))
            case "b" | "e" as phase:
                category = event.get("cat", event["name"])
                pair = (event.get("pid"), category, event["id"], event["name"])
                if phase == "b":
                    begun[pair] = event["ts"] / 1e6
                elif pair in begun:
                    overlapping[category].append((begun.pop(pair), event["ts"] / 1e6, event["name"]))
    first = min((start for lanes in (threads, overlapping) for start, _, _ in _all(lanes)), default=0.0)
    in_order = sorted(threads, key=lambda thread: (order.get(thread, 0), names.get(thread, str(thread))))
    return Trace(
        {names.get(thread, f"thread {thread[1]}"): _from(first, threads[thread]) for thread in in_order},
        {category: _from(first, spans) for category, spans in sorted(overlapping.items())},
    )


def _all(lanes: Mapping[Any, list[Span]]) -> list[Span]:
    return [span for spans in lanes.values() for span in spans]


def _from(first: float, spans: list[Span]) -> list[Span]:
    return sorted((start - first, end - first, stage) for start, end, stage in spans)
