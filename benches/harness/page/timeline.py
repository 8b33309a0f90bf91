"""A picture of one epoch from a trace. A lane per thread: in each slice of time, the part of it that the thread spent in each
stage, so that long spans look like spans, and a thousand short ones like their mixture. Of what overlaps, spans are drawn one by
one where they are few, as batches are, and as their number under way where they are many, as reads are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from . import svg
from .trace import Span, Trace, read

LEFT, RIGHT, LANE, GAP = 150, 20, 26, 6
# Of the number under way.
AREA = 44
# A span drawn by itself, and the least width that has room for its number.
BAR, NUMBERED = 13, 16
SLICES = 300
# By so much a slice reaches into the next one: a line would be seen between two that only touch.
SEAM = 0.5
MOST_LANES, MOST_STAGES = 24, 8
# More than so many at once can't be told apart.
MOST_BARS = 12


def plot(path: Path) -> str:
    """The picture; where the file can't be read as a trace, why."""
    name = f"timeline:{path.name.removesuffix('.trace.json')}"
    caption = "Stages of an epoch: what threads do, and below it the reads and batches under way"
    try:
        trace = read(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return svg.figure(
            name, caption, 30, [svg.text(0, 18, f"✗ no trace: {type(error).__name__}: {error}", kind="note")]
        )
    if not trace.end:
        return svg.figure(name, caption, 30, [svg.text(0, 18, "✗ the trace has no spans", kind="note")])
    return _draw(name, caption, trace)


def _draw(name: str, caption: str, trace: Trace) -> str:
    many = {category: spans for category, spans in trace.overlapping.items() if _most_at_once(spans) > MOST_BARS}
    few = {category: spans for category, spans in trace.overlapping.items() if category not in many}
    shades = _shades(trace.threads.values(), many.values())
    parts, y = _legend(shades)
    for lane, spans in list(trace.threads.items())[:MOST_LANES]:
        parts += [_label(lane, y, LANE), svg.box(LEFT, y, _width(), LANE, "lane")]
        parts += _slices(spans, shades, trace.end, y, LANE, 1.0)
        y += LANE + GAP
    if len(trace.threads) > MOST_LANES:
        parts.append(svg.text(LEFT, y + 12, f"and {len(trace.threads) - MOST_LANES} more threads", kind="note"))
        y += 18
    for category, spans in many.items():
        most = _most_at_once(spans)
        parts += [_label(f"{category}: {most} at most", y, AREA), svg.box(LEFT, y, _width(), AREA, "lane")]
        parts += _slices(spans, shades, trace.end, y, AREA, most)
        y += AREA + GAP
    for category, spans in few.items():
        rows = _rows(spans)
        parts.append(_label(category, y, len(rows) * BAR))
        parts += _bars(rows, spans, trace.end, y)
        y += len(rows) * BAR + GAP
    for value in svg.round_ticks(trace.end)[:-1] or [0.0]:
        x = LEFT + _width() * value / trace.end
        parts += [svg.line(x, y, x, y + 5, "grid"), svg.text(x, y + 18, svg.tick(value), anchor="middle", kind="tick")]
    parts.append(svg.text((LEFT + svg.WIDTH) / 2, y + 38, "seconds", anchor="middle", kind="axis"))
    return svg.figure(name, caption, y + 46, parts)


def _width() -> float:
    return svg.WIDTH - LEFT - RIGHT


def _label(name: str, y: float, height: float) -> str:
    return svg.text(LEFT - 10, y + height / 2 + 4, svg.fold(name, 22)[0], anchor="end", kind="label")


def _shades(threads: Iterable[list[Span]], many: Iterable[list[Span]]) -> dict[str, int]:
    """The stages that are told apart: what overlaps, and those of threads that take the most time."""
    overlap = sorted({stage for spans in many for _, _, stage in spans})
    time: dict[str, float] = defaultdict(float)
    for spans in threads:
        for start, end, stage in spans:
            time[stage] += end - start
    longest = sorted(time, key=lambda stage: -time[stage])[: max(0, MOST_STAGES - len(overlap))]
    return {stage: at for at, stage in enumerate([*longest, *overlap][:MOST_STAGES])}


def _legend(shades: dict[str, int]) -> tuple[list[str], float]:
    """And where it ends."""
    parts, x, y = [], float(LEFT), 16.0
    for stage, at in shades.items():
        width = 7 * len(stage) + 34
        if x + width > svg.WIDTH:
            x, y = float(LEFT), y + 18
        parts += [svg.box(x, y - 10, 12, 12, f"fill-{at}"), svg.text(x + 17, y, stage, kind="label")]
        x += width
    return parts, y + 14


def _slices(spans: list[Span], shades: dict[str, int], last: float, y: float, height: float, full: float) -> list[str]:
    """What is under way in each slice of time, `full` of it as a lane's whole height; neighbours that look the same are drawn as
    one."""
    slice_ = last / SLICES
    shares: list[dict[str, float]] = [defaultdict(float) for _ in range(SLICES)]
    for start, end, stage in spans:
        if stage not in shades:
            continue
        for at in range(int(start / slice_), min(int(end / slice_), SLICES - 1) + 1):
            shares[at][stage] += max(0.0, min(end, (at + 1) * slice_) - max(start, at * slice_)) / slice_ / full
    seen = [{stage: round(share, 2) for stage, share in slice_.items() if share >= 0.01} for slice_ in shares]
    width = _width() / SLICES
    parts, at = [], 0
    while at < SLICES:
        end = at + 1
        while end < SLICES and seen[end] == seen[at]:
            end += 1
        # Spans inside each other count twice: the lane is full, not more.
        total, top = max(1.0, sum(seen[at].values())), y + height
        for stage, shade in shades.items():
            part = height * seen[at].get(stage, 0.0) / total
            if part:
                top -= part
                wide = (end - at) * width + SEAM
                parts.append(svg.box(LEFT + at * width, top, wide, part, f"slice fill-{shade}", stage))
        at = end
    return parts


def _most_at_once(spans: list[Span]) -> int:
    ends = sorted([(start, 1) for start, _, _ in spans] + [(end, -1) for _, end, _ in spans])
    now = most = 0
    for _, change in ends:
        now += change
        most = max(most, now)
    return most


def _rows(spans: list[Span]) -> list[list[int]]:
    """The numbers of the spans, in as few rows as hold them beside each other."""
    rows: list[list[int]] = []
    for at, (start, _, _) in enumerate(spans):
        free = next((row for row in rows if spans[row[-1]][1] <= start), None)
        if free is None:
            rows.append([at])
        else:
            free.append(at)
    return rows


def _bars(rows: list[list[int]], spans: list[Span], last: float, y: float) -> list[str]:
    parts = []
    for row, numbers in enumerate(rows):
        top = y + row * BAR
        for number in numbers:
            start, end, stage = spans[number]
            x, width = LEFT + _width() * start / last, _width() * (end - start) / last
            parts.append(svg.box(x, top + 1, width, BAR - 2, "bar limit", f"{stage} {number}"))
            if width >= NUMBERED:
                parts.append(svg.text(x + 4, top + BAR - 3, str(number), kind="tick"))
    return parts
