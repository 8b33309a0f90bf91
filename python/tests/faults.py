"""What a RangeServer does wrong when a test asks it to: answers for its `answer`; and what it was asked for."""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from itertools import accumulate
from typing import Any

from servers import RangeServer

SIZE_ASKED = "bytes=0-0"
"""The range of one byte by which each process asks for sizes and versions itself."""


def fail(status: int) -> Any:
    """Every request gets this status."""

    def answer(handler: Any) -> bool:
        handler.plain(status)
        return True

    return answer


def cut(handler: Any, after: int) -> bool:
    """A GET's answer ends so many bytes into its body."""
    if handler.command != "GET":
        return False
    part = handler.begin()
    handler.wfile.write(part[:after])
    handler.wfile.flush()
    handler.close_connection = True
    return True


class Held:
    """Answers stop after so many bytes, or in the middle, until they are let go, and then go on."""

    def __init__(self, server: RangeServer, after: int | None = None) -> None:
        self.begun, self._released, self._after = threading.Event(), threading.Event(), after
        self.gave_up: list[str] = []
        """Paths of answers that went on before they were let go."""
        server.answer = self._answer

    def release(self) -> None:
        self._released.set()

    def _answer(self, handler: Any) -> bool:
        if handler.command != "GET" or handler.headers.get("range") == SIZE_ASKED:
            return False
        part = handler.begin()
        after = len(part) // 2 if self._after is None else self._after
        handler.wfile.write(part[:after])
        handler.wfile.flush()
        self.begun.set()
        if not self._released.wait(60):
            self.gave_up.append(handler.path)
        handler.wfile.write(part[after:])
        return True


class Stall:
    """Answers of shards that begin and don't go on, until they are let go: then they are cut, and others work."""

    def __init__(self, server: RangeServer) -> None:
        self.begun, self._released = threading.Event(), threading.Event()
        server.answer = self._answer

    def release(self) -> None:
        self._released.set()

    def _answer(self, handler: Any) -> bool:
        if self._released.is_set() or handler.command != "GET" or not handler.path.endswith(".tar"):
            return False
        handler.begin()
        self.begun.set()
        self._released.wait(60)
        handler.close_connection = True
        return True


def times_fetched(origin: RangeServer) -> dict[str, int]:
    """Of each path that was asked for: how often the byte was asked for that was asked for most often."""
    edges: dict[str, Counter[int]] = defaultdict(Counter)
    for request in list(origin.requests):
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range or "")
        if request.method == "GET" and found and request.range != SIZE_ASKED:
            edges[request.path][int(found[1])] += 1
            edges[request.path][int(found[2]) + 1] -= 1
    return {path: max(accumulate(each[at] for at in sorted(each))) for path, each in edges.items()}
