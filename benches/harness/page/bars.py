"""Bars: the median, a whisker from minimum to maximum, a dot for each run; what failed or was left out in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from . import svg

LABELS, VALUES = 250, 96
HEIGHT, GAP = 34, 8
# For a line below a bar.
BELOW = 14


@dataclass(frozen=True)
class Bar:
    """One contender."""

    label: str
    role: str
    """Whose it is, which gives the colour: ours, peer, limit."""
    median: float | None = None
    least: float = 0.0
    most: float = 0.0
    points: list[float] = field(default_factory=list)
    note: str = ""
    """Why there is no figure, or what is to be known of it."""
    partial: bool = False


def plot(name: str, caption: str, groups: dict[str, list[Bar]], unit: str, mark: float | None = None) -> str:
    """Groups of bars over one axis; `mark` draws a line at a value."""
    ends = [bar.most for bars in groups.values() for bar in bars if bar.median is not None]
    ticks = svg.round_ticks(max([*ends, mark or 0], default=0))
    left, right = LABELS, svg.WIDTH - VALUES

    def at(value: float) -> float:
        return left + (right - left) * value / ticks[-1]

    parts: list[str] = []
    y = 6.0
    for group, bars in groups.items():
        if group:
            parts.append(svg.text(0, y + 15, group, kind="group"))
            y += 24
        for bar in bars:
            parts += _bar(bar, y, at, left)
            y += HEIGHT + GAP + (BELOW if bar.note and bar.median is not None else 0)
        y += 6
    axis = [svg.line(at(value), 2, at(value), y, "grid") for value in ticks]
    axis += [svg.text(at(value), y + 16, svg.tick(value), anchor="middle", kind="tick") for value in ticks]
    axis.append(svg.text((left + right) / 2, y + 36, unit, anchor="middle", kind="axis"))
    if mark is not None:
        axis.append(svg.line(at(mark), 2, at(mark), y, "mark"))
    return svg.figure(name, caption, y + 44, [*axis, *parts])


def _bar(bar: Bar, y: float, at: Callable[[float], float], left: float) -> Iterator[str]:
    lines = svg.fold(bar.label, 34)
    middle = y + HEIGHT / 2
    for index, label in enumerate(lines):
        offset = middle + 4 + (index - (len(lines) - 1) / 2) * 14
        yield svg.text(
            left - 10, offset, label, anchor="end", kind="label ours-label" if bar.role == "ours" else "label"
        )
    if bar.median is None:
        yield svg.box(left, y + 4, 14, HEIGHT - 8, "failed")
        for index, part in enumerate(svg.fold(f"✗ {bar.note}", 74)):
            lifted = middle + 4 + (index * 14 - 7 if len(bar.note) > 72 else 0)
            yield svg.text(left + 22, lifted, part, kind="note")
        return
    shown = svg.number(bar.median) + (" partial" if bar.partial else "")
    hint = f"{bar.label}: {svg.number(bar.least)} – {svg.number(bar.median)} – {svg.number(bar.most)}, {len(bar.points)} runs"
    yield svg.box(
        left, y + 4, at(bar.median) - left, HEIGHT - 8, f"bar {bar.role}{' partial' if bar.partial else ''}", hint
    )
    yield svg.line(at(bar.least), middle, at(bar.most), middle, "whisker")
    for end in (bar.least, bar.most):
        yield svg.line(at(end), middle - 6, at(end), middle + 6, "whisker")
    for point in bar.points:
        yield f'<circle cx="{at(point):.1f}" cy="{middle:.1f}" r="2.6" class="point"/>'
    yield svg.text(at(bar.most) + 8, middle + 4, shown, kind="value")
    if bar.note:
        yield svg.text(left + 2, y + HEIGHT + 8, svg.fold(f"✗ {bar.note}", 80)[0], kind="note")
