"""Small immutable values with a readable repr: what a user writes into `fields=` and `transform=`.

By hand and not as dataclasses: their import takes longer than all of Forebay's. For the same reason the package imports
`typing` for type checkers only (they take any name TYPE_CHECKING for true), and `json` where it is used.
"""

from __future__ import annotations

from forebay._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Frozen:
    """Equal by value, hashable, picklable; `_names` are its attributes in the order of the repr."""

    __slots__ = ()
    _names: tuple[str, ...] = ()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed; make a new one with {name}={value!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._names)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Frozen) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._values())


def _rebuild(cls: type[Frozen], values: tuple[Any, ...]) -> Frozen:
    made = cls.__new__(cls)
    made._set(**dict(zip(cls._names, values, strict=True)))
    return made


def number(what: str, value: Any, low: float, high: float = float("inf")) -> float:
    """`value` as a float within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        bounds = f"{low:g} or more" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ConfigError(f"{what}={value!r}: give a number, {bounds}")
    return float(value)


def integer(what: str, value: Any, low: int, high: int) -> int:
    """`value` as an int within bounds; numpy's integers are welcome."""
    if not isinstance(value, bool):
        try:
            whole = value.__index__()
        except AttributeError:
            pass
        else:
            if low <= whole <= high:
                return int(whole)
    bounds = f"{low} or more" if high >= 2**31 else f"from {low} to {high}"
    raise ConfigError(f"{what}={value!r}: give a whole number, {bounds}")


def boolean(what: str, value: Any) -> bool:
    """`value`, which must be True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what}={value!r}: give True or False")
    return value


def choice(what: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value` as one of `choices`; an enumeration's member counts as its value (torchvision's InterpolationMode)."""
    text = getattr(value, "value", value)
    if isinstance(text, str) and text in choices:
        return text
    raise ConfigError(f"{what}={value!r}: give one of {', '.join(map(repr, choices))}")
