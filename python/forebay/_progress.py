"""The bar of a pass that is waited for, where standard error is no terminal.

On a terminal the runtime draws its own. In a notebook the bar is displayed and updated; a front end that replaces sys.stderr gets
a line that overwrites itself; a log file gets nothing but the announcement.
"""

from __future__ import annotations

import os
import sys
import threading

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


# The line is one: the bar that draws on it first has it until its end, and others that run meanwhile draw nothing.
_line = threading.Lock()


class _Line(_Nowhere):
    def __init__(self) -> None:
        self._mine = False

    def draw(self, progress: Progress) -> None:
        self._mine = self._mine or _line.acquire(blocking=False)
        if self._mine:
            sys.stderr.write(f"\r{progress!r}")
            sys.stderr.flush()

    def end(self) -> None:
        if self._mine:
            sys.stderr.write("\n")

    def __del__(self) -> None:
        if self._mine:
            _line.release()


def _where() -> _Nowhere:
    # Whoever is inside a notebook has imported IPython already; a shell in a terminal has no kernel.
    ipython = sys.modules.get("IPython")
    if hasattr(ipython.get_ipython() if ipython else None, "kernel"):
        return _Notebook()
    if sys.stderr is None or sys.stderr is sys.__stderr__ or os.isatty(2):
        return _Nowhere()
    return _Line()


class Bar:
    """The bar of one pass. Whatever is wrong with the front end ends the bar, not the call that it is drawn for."""

    def __init__(self) -> None:
        self._where: _Nowhere | None = None
        self._last: Progress | None = None

    def show(self, what: str, done: int, total: int) -> None:
        """Draws it, or draws it on."""
        self._last = Progress(what, done, total)
        try:
            self._where = self._where or _where()
            self._where.draw(self._last)
        except Exception:
            self._where = _Nowhere()

    def end(self, whole: bool) -> None:
        """The pass is over; `whole` where it came to its end."""
        where, self._where, last = self._where, None, self._last
        if not where or not last:
            return
        try:
            if whole:
                where.draw(Progress(last.what, last.total, last.total))
            where.end()
        except Exception:
            pass  # as in `show`
