"""What a batch holds: each field names the member suffixes that it is read from, first match wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forebay._conversions import Conversion, check_order, convert_spec, dtype_of
from forebay._errors import ConfigError
from forebay._frozen import Frozen, boolean, choice, number
from forebay._transforms import Transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Field(Frozen):
    """What may stand in `fields=`."""

    __slots__ = ()
    suffixes: tuple[str, ...]

    def _kind(self) -> Any:
        """The Rust side's FieldKind."""
        return type(self).__name__.lower()

    def _shapes(self) -> Any:
        """The Rust side's Shapes."""
        return "equal"


class _Plain(Field):
    __slots__ = _names = ("suffixes",)

    def __init__(self, *suffixes: str) -> None:
        self._set(suffixes=_suffixes(type(self).__name__, suffixes))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.suffixes))})"


class Int(_Plain):
    """int64 from decimal text. In a batch: [rows]."""

    __slots__ = ()


class Float(_Plain):
    """float64 from decimal text. In a batch: [rows]."""

    __slots__ = ()


class Text(_Plain):
    """UTF-8 text. In a batch: a list of str."""

    __slots__ = ()


class Json(_Plain):
    """A JSON document. In a batch: a list of what `json.loads` makes of it."""

    __slots__ = ()


class Bytes(_Plain):
    """The member as it is. In a batch: a list of bytes."""

    __slots__ = ()


class _Shaped(Field):
    __slots__ = ()
    pad: float | None
    ragged: bool

    def _shapes(self) -> Any:
        return "ragged" if self.ragged else "equal" if self.pad is None else {"pad": self.pad}


class Image(_Shaped):
    """uint8 RGB, as Pillow's `convert("RGB")` after EXIF orientation. In a batch: [rows, height, width, 3].

    transform: applied in order; behind the geometry Normalize, Cast and Layout make other numbers and shapes of the pixels.
    decode: "exact" is within 2 levels of Pillow; "fast" also scales while decoding.
    pad: fills samples whose shapes differ at their ends, with this value as it is: it is not normalised. ragged: gives a list
    of arrays instead.
    """

    __slots__ = _names = ("suffixes", "transform", "decode", "pad", "ragged")
    transform: tuple[Transform, ...]
    decode: str

    def __init__(
        self,
        *suffixes: str,
        transform: Iterable[Transform] = (),
        decode: str = "exact",
        pad: float | None = None,
        ragged: bool = False,
    ) -> None:
        steps = _transforms(transform)
        self._set(
            suffixes=_suffixes("Image", suffixes),
            transform=steps,
            decode=choice("Image: decode", decode, ("exact", "fast")),
            **_padding("Image", pad, ragged, 255.0 if dtype_of(steps) == "uint8" else float("inf")),
        )

    def _kind(self) -> Any:
        geometry = [each._spec() for each in self.transform if not isinstance(each, Conversion)]
        return {"image": {"transforms": geometry, "decode": self.decode, "convert": convert_spec(self.transform)}}


class Mask(_Shaped):
    """uint8 class indexes with the crop and flip of the image field `like`, nearest. In a batch: [rows, height, width]."""

    __slots__ = _names = ("suffixes", "like", "pad", "ragged")
    like: str

    def __init__(self, *suffixes: str, like: str, pad: float | None = None, ragged: bool = False) -> None:
        if not isinstance(like, str) or not like:
            raise ConfigError(f'Mask: like={like!r}: name the image field whose crop it takes, such as like="image"')
        self._set(suffixes=_suffixes("Mask", suffixes), like=like, **_padding("Mask", pad, ragged, 255.0))

    def _kind(self) -> Any:
        return {"mask": {"like": self.like}}


class Numpy(_Shaped):
    """An array in numpy's .npy format, any dtype without Python objects. In a batch: [rows, ...]."""

    __slots__ = _names = ("suffixes", "pad", "ragged")

    def __init__(self, *suffixes: str, pad: float | None = None, ragged: bool = False) -> None:
        self._set(suffixes=_suffixes("Numpy", suffixes), **_padding("Numpy", pad, ragged, float("inf")))


def checked(fields: Any) -> dict[str, Field]:
    """`fields=` as a dict, or an error that shows how to write it."""
    example = 'for example fields={"image": forebay.Image("jpg"), "label": forebay.Int("cls")}'
    if not isinstance(fields, Mapping):
        raise ConfigError(f"fields={fields!r}: give a dict of what a batch holds, {example}")
    if not fields:
        raise ConfigError(f"fields is empty: name what a batch holds, {example}")
    for name, field in fields.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"fields: the name {name!r} is not a str that names a field, {example}")
        if isinstance(field, type) and issubclass(field, Field):
            raise ConfigError(f"field {name!r} is the class {field.__name__}: call it, {field.__name__}(suffix, ...)")
        if not isinstance(field, Field) or not field._names:
            raise ConfigError(f"field {name!r} is {field!r}: give a forebay field, {example}")
    return dict(fields)


def as_json(fields: Mapping[str, Field]) -> str:
    """The Rust side's list of fields."""
    import json

    return json.dumps(
        [
            {"name": name, "suffixes": field.suffixes, "kind": field._kind(), "shapes": field._shapes()}
            for name, field in fields.items()
        ]
    )


def _suffixes(who: str, suffixes: tuple[Any, ...]) -> tuple[str, ...]:
    if not suffixes:
        raise ConfigError(f'{who}(): name the member suffixes that it is read from, such as {who}("{_EXAMPLES[who]}")')
    clean = []
    for suffix in suffixes:
        text = suffix.removeprefix(".").lower() if isinstance(suffix, str) else ""
        if not text or "/" in text or text in clean:
            why = "is given twice" if text and text in clean else "is no member suffix"
            raise ConfigError(f'{who}: {suffix!r} {why}; write it as the members end, such as "{_EXAMPLES[who]}"')
        clean.append(text)
    return tuple(clean)


_EXAMPLES = {
    "Image": "jpg",
    "Mask": "seg.png",
    "Int": "cls",
    "Float": "score",
    "Text": "txt",
    "Json": "json",
    "Bytes": "bin",
    "Numpy": "npy",
}


def _transforms(transform: Any) -> tuple[Transform, ...]:
    listed = (transform,) if isinstance(transform, Transform) else transform
    try:
        steps = tuple(listed)
    except TypeError:
        steps = (listed,)
    for step in steps:
        if isinstance(step, type) and issubclass(step, Transform):
            raise ConfigError(f"Image: transform holds the class {step.__name__}: call it, {step.__name__}(...)")
        if not isinstance(step, Transform):
            raise ConfigError(
                f"Image: transform holds {step!r}; it takes RandomResizedCrop, RandomCrop, Resize, CenterCrop, "
                "RandomHorizontalFlip, Normalize, Cast and Layout of forebay. Python code per batch goes into map="
            )
    check_order(steps)
    return steps


def _padding(who: str, pad: Any, ragged: Any, most: float) -> dict[str, Any]:
    if pad is not None:
        least = 0.0 if most == 255.0 else -most
        pad = number(f"{who}: pad", pad, least, most)
    if boolean(f"{who}: ragged", ragged) and pad is not None:
        raise ConfigError(f"{who}: pad= makes one array and ragged=True a list of arrays; give one of the two")
    return {"pad": pad, "ragged": ragged}
