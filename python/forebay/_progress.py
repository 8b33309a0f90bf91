"""The bar of a pass that is waited for, where standard error is no terminal.

On a terminal the runtime draws its own. In a notebook the bar is displayed and updated; a front end that replaces sys.stderr gets
a line that overwrites itself; a log file gets nothing but the announcement.
"""

from __future__ import annotations

import os
import sys

from forebay._sizes import show as size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Progress:
    """How far a pass is, as HTML and as text."""

    __slots__ = ("done", "total", "what")

    def __init__(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total = what, done, total

    def __repr__(self) -> str:
        part = self.done / self.total if self.total else 1.0
        return f"{self.what}: {part:4.0%} of {size(self.total)}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<progress value='{self.done}' max='{self.total}'></progress> {escape(repr(self))}"


class _Nowhere:
    def draw(self, progress: Progress) -> None:
        pass

    def end(self) -> None:
        pass


class _Notebook(_Nowhere):
    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, progress: Progress) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(progress, display_id=True)
        else:
            self._handle.update(progress)


class _Line(_Nowhere):
    def draw(self, progress: Progress) -> None:
        sys.stderr.write(f"\r{progress!r}")
        sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\n")


def _where() -> _Nowhere:
    # Whoever is inside a notebook has imported IPython already; a shell in a terminal has no kernel.
    ipython = sys.modules.get("IPython")
    if hasattr(ipython.get_ipython() if ipython else None, "kernel"):
        return _Notebook()
    if sys.stderr is None or sys.stderr is sys.__stderr__ or os.isatty(2):
        return _Nowhere()
    return _Line()


_drawn: tuple[_Nowhere, Progress] | None = None


def show(what: str, done: int, total: int) -> None:
    """Draws a bar, or draws it on. Whatever is wrong with the front end ends the bar, not the call that it is drawn for."""
    global _drawn
    progress = Progress(what, done, total)
    try:
        where = _drawn[0] if _drawn else _where()
        where.draw(progress)
    except Exception:
        where = _Nowhere()
    _drawn = where, progress


def end(whole: bool) -> None:
    """The pass is over; `whole` where it came to its end."""
    global _drawn
    if not _drawn:
        return
    (where, last), _drawn = _drawn, None
    try:
        if whole:
            where.draw(Progress(last.what, last.total, last.total))
        where.end()
    except Exception:
        pass  # as in `show`
