"""What becomes of an image's pixels behind the geometry: normalised, cast, laid out. docs/python.md has the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from forebay._errors import ConfigError
from forebay._frozen import number
from forebay._transforms import Transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DTYPES = ("uint8", "float16", "bfloat16", "float32")
_LAYOUTS = ("NHWC", "NCHW", "channels_last")
_LARGEST = 3.4028234663852886e38  # of float32
_GEOMETRY = "RandomResizedCrop, Resize, CenterCrop, RandomHorizontalFlip"


class Conversion(Transform):
    """A step behind the geometry: Normalize, Cast and Layout, each at most once and in this order."""

    __slots__ = ()
    _place = 0


class Normalize(Conversion):
    """(level / 255 - mean) / std, as torchvision's ToTensor and Normalize: float32, unless a Cast follows.

    mean, std: of red, green and blue, on the scale from 0 to 1; ImageNet's are (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
    """

    __slots__ = _names = ("mean", "std")
    _place = 1
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        means, stds = _by_channel("mean", mean), _by_channel("std", std)
        for shift, scale in zip(means, stds, strict=True):
            if scale <= 0:
                raise ConfigError(f"Normalize: std={std!r}: pixels are divided by it, so give numbers above 0")
            if max(1 / 255, abs(shift), abs(1 - shift)) > scale * _LARGEST:
                raise ConfigError(
                    f"Normalize: std={std!r}: {scale!r} is so small that float32 can't hold what becomes of pixels"
                )
        self._set(mean=means, std=stds)


class Cast(Conversion):
    """The type of the image's numbers: "uint8", "float16", "bfloat16" or "float32", rounded to the nearest.

    Without Normalize the numbers stay 0 to 255, as torch's `.to(dtype)` leaves them; every type holds them exactly.
    """

    __slots__ = _names = ("dtype",)
    _place = 2
    dtype: str

    def __init__(self, dtype: str) -> None:
        self._set(dtype=_one_of("Cast: dtype", dtype, _DTYPES))


class Layout(Conversion):
    """The order of the batch's dimensions, and of its numbers in memory.

    layout: "NHWC" is [rows, height, width, 3]; "NCHW" is [rows, 3, height, width]; "channels_last" has the shape of NCHW
    and the memory of NHWC, as torch.channels_last. Ragged images are the same without rows.
    """

    __slots__ = _names = ("layout",)
    _place = 3
    layout: str

    def __init__(self, layout: str) -> None:
        self._set(layout=_one_of("Layout: layout", layout, _LAYOUTS))


def check_order(steps: Sequence[Transform]) -> None:
    """An error where the steps of a transform= don't follow each other as they must."""
    behind: Conversion | None = None
    for step in steps:
        place = step._place if isinstance(step, Conversion) else 0
        if behind is not None and type(step) is type(behind):
            raise ConfigError(f"Image: transform holds {type(step).__name__} twice: {behind!r} and {step!r}; drop one")
        if behind is not None and place < behind._place:
            raise ConfigError(
                f"Image: transform holds {step!r} behind {behind!r}: the order is geometry ({_GEOMETRY}), "
                "then Normalize, Cast, Layout"
            )
        if isinstance(step, Cast) and step.dtype == "uint8" and isinstance(behind, Normalize):
            raise ConfigError(
                'Image: Cast("uint8") behind Normalize: normalised pixels lie around 0 and don\'t fit uint8; use "float32", '
                '"float16" or "bfloat16", or drop Normalize'
            )
        if isinstance(step, Conversion):
            behind = step


def convert_spec(steps: Sequence[Transform]) -> dict[str, Any]:
    """The Rust side's Convert."""
    spec: dict[str, Any] = {}
    for step in steps:
        if isinstance(step, Normalize):
            spec |= {"normalize": {"mean": step.mean, "std": step.std}, "dtype": "float32"}
        elif isinstance(step, Cast):
            spec["dtype"] = step.dtype
        elif isinstance(step, Layout):
            spec["layout"] = step.layout.lower()
    return spec


def layout_of(steps: Sequence[Transform]) -> str | None:
    """The layout that was asked for."""
    return next((step.layout for step in steps if isinstance(step, Layout)), None)


def dtype_of(steps: Sequence[Transform]) -> str:
    """The type of the numbers."""
    spec: str = convert_spec(steps).get("dtype", "uint8")
    return spec


def _by_channel(name: str, value: Any) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ConfigError(f"Normalize: {name}={value!r}: give three numbers, for red, green and blue")
    red, green, blue = (number(f"Normalize: {name}", each, -_LARGEST, _LARGEST) for each in value)
    return red, green, blue


def _one_of(what: str, value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    from difflib import get_close_matches

    # torch.bfloat16 too is told by its name.
    name = str(value).rpartition(".")[2].lower()
    by_name = {choice.lower(): choice for choice in choices}
    near = get_close_matches(name, by_name, 1)
    hint = f"; did you mean {by_name[near[0]]!r}?" if near else ""
    raise ConfigError(f"{what}={value!r}: give one of {', '.join(map(repr, choices))}{hint}")
