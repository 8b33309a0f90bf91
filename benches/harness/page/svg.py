"""Drawing: text, boxes, axes with round numbers. Colours and fonts are classes of the page's style, for light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

WIDTH = 760
LINE = 16


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "", turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{turned}>{escape(content, quote=False)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, hint: str = "") -> str:
    title = f"<title>{escape(hint)}</title>" if hint else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.2f}" height="{max(height, 0):.2f}"'
    return f'<rect {place} class="{kind}">{title}</rect>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def figure(name: str, caption: str, height: float, parts: Iterable[str], width: float = WIDTH) -> str:
    """A plot with its caption. `name` says which, for links and for tests."""
    return (
        f'<figure id="{escape(name)}" data-plot="{escape(name)}"><figcaption>{escape(caption)}</figcaption>'
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def fold(content: str, characters: int) -> list[str]:
    """Two lines at most, broken between words where that can be."""
    if len(content) <= characters:
        return [content]
    at = content.rfind(" ", 0, characters + 1)
    at = at if at > 0 else characters
    rest = content[at:].strip()
    return [content[:at], rest if len(rest) <= characters else f"{rest[: characters - 1]}…"]


def round_ticks(most: float, about: int = 5) -> list[float]:
    """Round numbers from zero to the first that is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    return [step * at for at in range(math.ceil(most / step - 1e-9) + 1)]


def power_ticks(least: float, most: float) -> list[float]:
    """Powers of ten from below `least` to above `most`."""
    low, high = math.floor(math.log10(least) + 1e-9), math.ceil(math.log10(most) - 1e-9)
    every = max(1, (high - low) // 9)
    return [10.0**power for power in range(low, max(high, low + 1) + 1, every)]


def number(value: float) -> str:
    """Three digits, and all before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return power(value)
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def tick(value: float) -> str:
    if value == 0:
        return "0"
    return power(value) if abs(value) >= 1e5 or abs(value) < 1e-3 else f"{value:,g}"


def is_power(value: float) -> bool:
    """Of ten."""
    return value > 0 and abs(math.log10(value) - round(math.log10(value))) < 1e-9


def power(value: float) -> str:
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    digits = value / 10.0**exponent
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if abs(digits - 1) < 1e-6 else f"{digits:.3g}·10{raised}"


def size(value: float) -> str:
    """Bytes, in the unit that makes them a short number."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"
