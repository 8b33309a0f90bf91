"""Geometry of images, named and parameterised as in torchvision.transforms.v2."""

from __future__ import annotations

from collections.abc import Sequence

from forebay._errors import ConfigError
from forebay._frozen import Frozen, boolean, choice, integer, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_LARGEST = 65_535  # pixels; also JPEG's own limit


class Transform(Frozen):
    """What may stand in an Image's `transform=`."""

    __slots__ = ()

    def _spec(self) -> dict[str, Any]:
        raise NotImplementedError


class RandomResizedCrop(Transform):
    """A box of random area and ratio, resized to `size`.

    size: (height, width) in pixels, or one number for both.
    scale: bounds of the box's area, as parts of the image's. ratio: bounds of width / height, drawn log-uniformly.
    interpolation: "bilinear", "bicubic" or "nearest". antialias: low-pass before shrinking, as Pillow does.
    """

    __slots__ = _names = ("size", "scale", "ratio", "interpolation", "antialias")
    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    antialias: bool

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Any = "bilinear",
        antialias: bool = True,
    ) -> None:
        self._set(
            size=_both("RandomResizedCrop", size),
            scale=_bounds("RandomResizedCrop: scale", scale, 1.0),
            ratio=_bounds("RandomResizedCrop: ratio", ratio, float("inf")),
            interpolation=choice("RandomResizedCrop: interpolation", interpolation, _INTERPOLATIONS),
            antialias=boolean("RandomResizedCrop: antialias", antialias),
        )

    def _spec(self) -> dict[str, Any]:
        return {"random_resized_crop": {name: getattr(self, name) for name in self._names}}


class Resize(Transform):
    """The whole image, resized.

    size: one number for the shorter side (the longer one follows, at most `max_size`), or (height, width).
    """

    __slots__ = _names = ("size", "interpolation", "max_size", "antialias")
    size: int | tuple[int, int]
    interpolation: str
    max_size: int | None
    antialias: bool

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: Any = "bilinear",
        max_size: int | None = None,
        antialias: bool = True,
    ) -> None:
        sides = _sides("Resize", size)
        if max_size is not None:
            if len(sides) == 2:
                raise ConfigError(
                    "Resize: max_size goes with one number as size, the shorter side; drop one of the two"
                )
            integer("Resize: max_size", max_size, sides[0] + 1, _LARGEST)
        self._set(
            size=sides[0] if len(sides) == 1 else (sides[0], sides[1]),
            interpolation=choice("Resize: interpolation", interpolation, _INTERPOLATIONS),
            max_size=max_size,
            antialias=boolean("Resize: antialias", antialias),
        )

    def _spec(self) -> dict[str, Any]:
        if isinstance(self.size, tuple):
            size: dict[str, Any] = {"exactly": self.size}
        else:
            size = {"shorter": {"side": self.size, "max_size": self.max_size}}
        return {"resize": {"size": size, "interpolation": self.interpolation, "antialias": self.antialias}}


class RandomCrop(Transform):
    """A random box of the image, not resized.

    size: (height, width) in pixels, or one number for both.
    pad_if_needed: a smaller image is first padded with zeros, at both ends by what is missing, as torchvision does. Without it a
        smaller image is an error.
    """

    __slots__ = _names = ("size", "pad_if_needed")
    size: tuple[int, int]
    pad_if_needed: bool

    def __init__(self, size: int | Sequence[int], pad_if_needed: bool = False) -> None:
        self._set(size=_both("RandomCrop", size), pad_if_needed=boolean("RandomCrop: pad_if_needed", pad_if_needed))

    def _spec(self) -> dict[str, Any]:
        return {"random_crop": {"size": self.size, "pad_if_needed": self.pad_if_needed}}


class CenterCrop(Transform):
    """The middle of the image; a smaller image is padded with zeros, as torchvision does.

    size: (height, width) in pixels, or one number for both.
    """

    __slots__ = _names = ("size",)
    size: tuple[int, int]

    def __init__(self, size: int | Sequence[int]) -> None:
        self._set(size=_both("CenterCrop", size))

    def _spec(self) -> dict[str, Any]:
        return {"center_crop": {"size": self.size}}


class RandomHorizontalFlip(Transform):
    """The image mirrored, left to right, with probability `p`."""

    __slots__ = _names = ("p",)
    p: float

    def __init__(self, p: float = 0.5) -> None:
        self._set(p=number("RandomHorizontalFlip: p", p, 0.0, 1.0))

    def _spec(self) -> dict[str, Any]:
        return {"random_horizontal_flip": {"p": self.p}}


def _sides(who: str, size: Any) -> list[int]:
    listed = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(listed) not in (1, 2):
        raise ConfigError(f"{who}: size={size!r}: give one number, or (height, width)")
    return [integer(f"{who}: size", side, 1, _LARGEST) for side in listed]


def _both(who: str, size: Any) -> tuple[int, int]:
    sides = _sides(who, size)
    return sides[0], sides[-1]


def _bounds(what: str, value: Any, high: float) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigError(f"{what}={value!r}: give two numbers, (least, most)")
    least, most = (number(what, each, 0.0, high) for each in value)
    if not 0 < least <= most < float("inf"):
        raise ConfigError(f"{what}={value!r}: the first number must be above 0 and not above the second")
    return least, most
