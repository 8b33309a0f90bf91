"""A picture of one epoch from a trace in Chrome's format: a lane per thread; in each slice of time, the part of it that the
thread spent in each stage. Long spans look like spans, and a thousand short ones like their mixture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from . import svg

LEFT, LANE, GAP = 150, 26, 6
SLICES = 300
MOST_LANES, MOST_STAGES = 24, 8

Span = tuple[float, float, str]


def plot(path: Path) -> str:
    """The picture; where the file can't be read as a trace, why."""
    name = f"timeline:{path.name.removesuffix('.trace.json')}"
    caption = f"Stages from the beginning of an epoch ({path.name}; open it in Perfetto for single events)"
    try:
        lanes = read(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return svg.figure(
            name, caption, 30, [svg.text(0, 18, f"✗ no trace: {type(error).__name__}: {error}", kind="note")]
        )
    if not any(end for spans in lanes.values() for _, end, _ in spans):
        return svg.figure(name, caption, 30, [svg.text(0, 18, "✗ the trace has no spans", kind="note")])
    return _draw(name, caption, lanes)


def read(path: Path) -> dict[str, list[Span]]:
    """Each thread's spans: start and end in seconds from the first one, and the stage."""
    content = json.loads(path.read_text())
    events: list[dict[str, Any]] = content["traceEvents"] if isinstance(content, dict) else content
    names: dict[tuple[Any, Any], str] = {}
    spans: dict[tuple[Any, Any], list[Span]] = defaultdict(list)
    open_: dict[tuple[Any, Any], list[tuple[float, str]]] = defaultdict(list)
    for event in events:
        thread = (event.get("pid"), event.get("tid"))
        match event["ph"]:
            case "M" if event["name"] == "thread_name":
                names[thread] = event["args"]["name"]
            case "X":
                spans[thread].append((event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6, event["name"]))
            case "B":
                open_[thread].append((event["ts"] / 1e6, event["name"]))
            case "E" if open_[thread]:
                start, stage = open_[thread].pop()
                spans[thread].append((start, event["ts"] / 1e6, stage))
    first = min((start for mine in spans.values() for start, _, _ in mine), default=0.0)
    return {
        names.get(thread, f"thread {thread[1]}"): sorted(
            (start - first, end - first, stage) for start, end, stage in mine
        )
        for thread, mine in sorted(spans.items(), key=lambda item: names.get(item[0], str(item[0])))
    }


def _draw(name: str, caption: str, lanes: dict[str, list[Span]]) -> str:
    last = max(end for spans in lanes.values() for _, end, _ in spans)
    time: dict[str, float] = defaultdict(float)
    for spans in lanes.values():
        for start, end, stage in spans:
            time[stage] += end - start
    stages = {stage: at for at, stage in enumerate(sorted(time, key=lambda stage: -time[stage])[:MOST_STAGES])}
    parts, x, y = [], float(LEFT), 16.0
    for stage, at in stages.items():
        width = 7 * len(stage) + 34
        if x + width > svg.WIDTH:
            x, y = float(LEFT), y + 18
        parts += [svg.box(x, y - 10, 12, 12, f"fill-{at}"), svg.text(x + 17, y, stage, kind="label")]
        x += width
    y += 14
    for lane, spans in list(lanes.items())[:MOST_LANES]:
        parts.append(svg.text(LEFT - 10, y + LANE / 2 + 4, svg.fold(lane, 22)[0], anchor="end", kind="label"))
        parts.append(svg.box(LEFT, y, svg.WIDTH - LEFT - 20, LANE, "lane"))
        parts += _lane(spans, stages, last, y)
        y += LANE + GAP
    if len(lanes) > MOST_LANES:
        parts.append(svg.text(LEFT, y + 12, f"and {len(lanes) - MOST_LANES} more threads", kind="note"))
        y += 18
    for value in svg.round_ticks(last)[:-1] or [0.0]:
        at_x = LEFT + (svg.WIDTH - LEFT - 20) * value / last
        parts += [
            svg.line(at_x, y, at_x, y + 5, "grid"),
            svg.text(at_x, y + 18, svg.tick(value), anchor="middle", kind="tick"),
        ]
    parts.append(svg.text((LEFT + svg.WIDTH) / 2, y + 38, "seconds", anchor="middle", kind="axis"))
    return svg.figure(name, caption, y + 46, parts)


def _lane(spans: list[Span], stages: dict[str, int], last: float, y: float) -> list[str]:
    """Slices of one thread; neighbours that look the same are drawn as one."""
    slice_ = last / SLICES
    shares: list[dict[str, float]] = [defaultdict(float) for _ in range(SLICES)]
    for start, end, stage in spans:
        if stage not in stages:
            continue
        for at in range(int(start / slice_), min(int(end / slice_), SLICES - 1) + 1):
            shares[at][stage] += max(0.0, min(end, (at + 1) * slice_) - max(start, at * slice_)) / slice_
    width = (svg.WIDTH - LEFT - 20) / SLICES
    parts, at = [], 0
    while at < SLICES:
        rounded = {stage: round(share, 2) for stage, share in shares[at].items() if share >= 0.01}
        end = at + 1
        while end < SLICES and {s: round(v, 2) for s, v in shares[end].items() if v >= 0.01} == rounded:
            end += 1
        # Spans inside each other count twice: the lane is full, not more.
        total, top = max(1.0, sum(rounded.values())), y + LANE
        for stage, shade in stages.items():
            height = LANE * rounded.get(stage, 0.0) / total
            if height:
                top -= height
                parts.append(svg.box(LEFT + at * width, top, (end - at) * width, height, f"slice fill-{shade}", stage))
        at = end
    return parts
