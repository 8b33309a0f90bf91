"""Curves: how a figure changes with a size. Lines differ in colour, mark and dash, and are named at the side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import svg

LEFT, RIGHT, TOP, HEIGHT = 64, 200, 14, 290
# Beyond it, small values can't be told apart on an axis from zero.
LOG_FROM = 50.0
SHADES = 8
# Two lines of a name, two of why it failed.
NAME = 58


def plot(name: str, curve: dict[str, Any], partial: bool) -> str:
    points = [point for line in curve["lines"].values() for point in line]
    caption = curve["title"] + (" (partial)" if partial else "")
    legend = list(curve["lines"]) + [name for name in curve["failed"] if name not in curve["lines"]]
    height = max(HEIGHT, TOP + NAME * len(legend) + 20)
    parts = [_name(curve, shade, contender) for shade, contender in enumerate(legend)]
    if points:
        xs = sorted({point["x"] for point in points})
        across, x_ticks = _across(xs)
        up, y_ticks = _up(points)
        powers = xs[-1] >= 1e5 and all(svg.is_power(value) for value in xs)
        shown = svg.size if curve["x"].startswith("bytes") else svg.power if powers else svg.tick
        parts += [svg.line(LEFT, up(value), svg.WIDTH - RIGHT, up(value), "grid") for value in y_ticks]
        parts += [svg.text(LEFT - 8, up(value) + 4, svg.tick(value), anchor="end", kind="tick") for value in y_ticks]
        parts += [svg.line(across(value), HEIGHT, across(value), HEIGHT + 5, "grid") for value in x_ticks]
        parts += _ticks(x_ticks, across, shown)
        for shade, line in enumerate(curve["lines"].values()):
            parts += _line(line, shade, across, up)
    parts.append(svg.text((LEFT + svg.WIDTH - RIGHT) / 2, HEIGHT + 38, curve["x"], anchor="middle", kind="axis"))
    parts.append(svg.text(14, (TOP + HEIGHT) / 2, curve["y"], anchor="middle", kind="axis", turn=True))
    return svg.figure(name, caption, height + 46, parts)


def _ticks(values: list[float], across: Callable[[float], float], shown: Callable[[float], str]) -> list[str]:
    """Their names, but for those that would touch the one before."""
    parts, end = [], float("-inf")
    for value in values:
        x, name = across(value), shown(value)
        half = 3.5 * len(name)
        if x - half > end:
            parts.append(svg.text(x, HEIGHT + 18, name, anchor="middle", kind="tick"))
            end = x + half
    return parts


def _across(xs: list[float]) -> tuple[Callable[[float], float], list[float]]:
    """Sizes grow by factors, unless they are a plain count; each that was measured has its tick, where they fit."""
    even = len(xs) > 2 and all(math.isclose(xs[at + 1] - xs[at], xs[1] - xs[0]) for at in range(len(xs) - 1))
    place = float if even else math.log
    low, high = place(xs[0]), place(xs[-1])
    width = svg.WIDTH - RIGHT - LEFT - 40

    def at(value: float) -> float:
        return LEFT + 20 + (width * (place(value) - low) / (high - low) if high > low else width / 2)

    return at, xs[:: math.ceil(len(xs) / 9)]


def _up(points: list[dict[str, float]]) -> tuple[Callable[[float], float], list[float]]:
    """From zero; by factors of ten where values differ by more than that shows."""
    least, most = min(point["min"] for point in points), max(point["max"] for point in points)
    if least > 0 and most / least > LOG_FROM:
        ticks = svg.power_ticks(least, most)
        low, high = math.log(ticks[0]), math.log(max(ticks[-1], most))
        return lambda value: HEIGHT - (HEIGHT - TOP) * (math.log(value) - low) / (high - low), ticks
    ticks = svg.round_ticks(most)
    return lambda value: HEIGHT - (HEIGHT - TOP) * value / ticks[-1], ticks


def _line(
    line: list[dict[str, float]], shade: int, across: Callable[[float], float], up: Callable[[float], float]
) -> list[str]:
    shade %= SHADES
    points = sorted(line, key=lambda point: point["x"])
    path = " ".join(f"{across(point['x']):.1f},{up(point['median']):.1f}" for point in points)
    parts = [f'<polyline points="{path}" class="curve shade-{shade} dash-{shade}"/>']
    for point in points:
        x = across(point["x"])
        parts.append(svg.line(x, up(point["min"]), x, up(point["max"]), f"spread shade-{shade}"))
        parts.append(_mark(x, up(point["median"]), shade, svg.number(point["median"])))
    return parts


def _mark(x: float, y: float, shade: int, hint: str = "") -> str:
    """A filled shape, another one for each line."""
    shapes = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"',
        f'<polygon points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"',
        f'<polygon points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"',
    ]
    shade %= SHADES
    return f'{shapes[shade % len(shapes)]} class="dot fill-{shade}"><title>{hint}</title></{shapes[shade % 4][1:].split()[0]}>'


def _name(curve: dict[str, Any], shade: int, contender: str) -> str:
    x, y = svg.WIDTH - RIGHT + 22, TOP + 12 + NAME * shade
    reason = curve["failed"].get(contender)
    parts = [_mark(x, y - 4, shade)] if curve["lines"].get(contender) else []
    lines = svg.fold(contender, 25)
    parts += [svg.text(x + 12, y + 14 * at, part, kind="label") for at, part in enumerate(lines)]
    if reason:
        for at, part in enumerate(svg.fold(f"✗ failed: {reason}", 26), len(lines)):
            parts.append(svg.text(x + 12, y + 14 * at, part, kind="note"))
    return "".join(parts)
