"""Two libraries asked the same: what each gives, or how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from written import bits


@dataclass(frozen=True)
class Outcome:
    """Of one call: a value, or an exception."""

    value: Any = None
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.value!r}" if self.error is None else f"{type(self.error).__name__}: {self.error}"


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(value=call())
    except Exception as error:
        return Outcome(error=error)


def assert_same(ours: Outcome, theirs: Outcome, what: str) -> None:
    """The same value to the last bit, or an exception that whoever catches theirs catches."""
    if theirs.error is None:
        assert ours.error is None, told(ours, theirs, what)
        assert whole(ours.value) == whole(theirs.value), told(ours, theirs, what)
    else:
        assert isinstance(ours.error, type(theirs.error)), told(ours, theirs, what)


def told(ours: Outcome, theirs: Outcome, what: str) -> str:
    return f"{what}: ours gives {ours}, theirs {theirs}"


def whole(value: Any) -> Any:
    """A value as something that `==` compares. Of tensors by name also the order of those that have bytes: where others
    lie among them safetensors leaves to chance."""
    if isinstance(value, dict):
        return {name: bits(each) for name, each in value.items()}, [
            name for name, each in value.items() if not is_empty(each)
        ]
    return bits(value)


def is_empty(value: Any) -> bool:
    return 0 in getattr(value, "shape", ())
