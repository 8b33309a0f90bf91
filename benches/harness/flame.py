"""A flame graph, as one SVG without anything from outside, of the stacks that `perf script` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, TOP = 1200, 17, 44
# Narrower ones can't be seen, and are most of the file.
LEAST_PIXELS = 1.0
CHARACTER = 6.6

STYLE = """
svg { background: #fff; font: 11px ui-monospace, "DejaVu Sans Mono", monospace; }
text { fill: #1b1f24; pointer-events: none; } .title { font: 600 15px system-ui, "DejaVu Sans", sans-serif; }
rect { stroke: #fff; stroke-width: .5; } .ours { fill: #7fb8e6; } .decoder { fill: #f0b65a; } .kernel { fill: #b9c0c8; }
.other { fill: #d9d3c4; } g:hover > rect { stroke: #000; }
@media (prefers-color-scheme: dark) { svg { background: #12161c; } .title { fill: #e8ecf1; } rect { stroke: #12161c; } }
"""


@dataclass
class Frame:
    """A function, called from where it stands, with what it calls."""

    name: str
    samples: int = 0
    callees: dict[str, Frame] = field(default_factory=dict)

    def depth(self, least: float) -> int:
        """How many rows those take that have so many samples."""
        return 1 + max((callee.depth(least) for callee in self.callees.values() if callee.samples >= least), default=0)


def fold(script: Iterable[str]) -> Frame:
    """The samples of `perf script`'s output, by thread name and stack. A sample is its head line, then a frame a line, innermost
    first, then an empty line."""
    root = Frame("all")
    for thread, stack in _samples(script):
        at = root
        at.samples += 1
        for name in [thread, *reversed(stack)]:
            at = at.callees.setdefault(name, Frame(name))
            at.samples += 1
    return root


def _samples(script: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    thread: str | None = None
    stack: list[str] = []
    for line in [*script, ""]:
        if not line.strip():
            if thread is not None:
                yield thread, stack
            thread, stack = None, []
        elif thread is None:
            head = re.match(r"\s*(.+?)\s+(?:\d+/)?\d+:?\s*$", line)
            thread = head.group(1) if head else line.strip()
        elif frame := re.match(r"\s*[0-9a-f]+ (.+) \(([^()]*|\[[^\]]*\])\)$", line.rstrip()):
            stack.append(_readable(frame.group(1), frame.group(2)))


def _readable(symbol: str, library: str) -> str:
    """Without the offset, Rust's hash and generic arguments; code of the kernel and without a name is told by its file."""
    symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol)
    symbol = re.sub(r"::h[0-9a-f]{16}$", "", symbol)
    if "kernel" in library:
        return f"{symbol} [kernel]"
    if symbol == "[unknown]":
        return f"[{library.rpartition('/')[2]}]"
    return symbol


def svg(root: Frame, title: str) -> str:
    """Callers below what they call; the width of a frame is its part of all samples."""
    scale = WIDTH / max(root.samples, 1)
    height = TOP + root.depth(LEAST_PIXELS / scale) * ROW + 8
    parts = list(_draw(root, 0.0, height - 8 - ROW, scale, root.samples))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>'
        f'<text x="8" y="24" class="title">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def _draw(frame: Frame, x: float, y: float, scale: float, total: int) -> Iterator[str]:
    width = frame.samples * scale
    if width < LEAST_PIXELS:
        return
    room = int((width - 4) / CHARACTER)
    shown = frame.name if len(frame.name) <= room else f"{frame.name[: room - 1]}…" if room > 3 else ""
    share = f"{frame.name}: {frame.samples} samples, {100 * frame.samples / total:.1f} %"
    label = f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(shown, quote=False)}</text>' if shown else ""
    yield (
        f'<g><title>{escape(share, quote=False)}</title><rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}" '
        f'class="{_kind(frame.name)}"/>{label}</g>'
    )
    for name in sorted(frame.callees):
        callee = frame.callees[name]
        yield from _draw(callee, x, y - ROW, scale, total)
        x += callee.samples * scale


def _kind(name: str) -> str:
    if name.endswith("[kernel]"):
        return "kernel"
    if re.search(r"jpeg|jsimd|huff|idct|resize|decode_mcu|decompress|upsample|ycc|process_data", name, re.IGNORECASE):
        return "decoder"
    return "ours" if "forebay" in name else "other"
