"""What a RangeServer does wrong when a test asks it to: answers for its `answer`."""

from __future__ import annotations

import threading
from typing import Any

from servers import RangeServer, etag_of


def fail(status: int) -> Any:
    """Every request gets this status."""

    def answer(handler: Any) -> bool:
        handler.plain(status)
        return True

    return answer


def begin(handler: Any) -> bytes:
    """Answers a GET with the headers of the range that it asks for, and gives the bytes that belong behind them."""
    path = handler.folder / handler.path.lstrip("/")
    data = path.read_bytes()
    first, _, last = handler.headers.get("range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
    part = data[int(first) : int(last or len(data) - 1) + 1]
    handler.send_response(206)
    handler.send_header("etag", etag_of(path))
    handler.send_header("content-length", str(len(part)))
    handler.send_header("content-range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
    handler.end_headers()
    return part


def cut(handler: Any, after: int) -> bool:
    """A GET's answer ends so many bytes into its body."""
    if handler.command != "GET":
        return False
    part = begin(handler)
    handler.wfile.write(part[:after])
    handler.wfile.flush()
    handler.close_connection = True
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
        begin(handler)
        self.begun.set()
        self._released.wait(60)
        handler.close_connection = True
        return True
