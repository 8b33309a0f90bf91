"""`safe_open`: safetensors' own interface, over files, folders and indexes anywhere."""

from __future__ import annotations

from forebay._errors import ConfigError
from forebay.weights import _model, _places
from forebay.weights._errors import SafetensorError
from forebay.weights._frameworks import BITS, Dlpack
from forebay.weights._frameworks import framework as framework_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Any

    from forebay.weights._frameworks import Numpy, Torch


class safe_open:
    """Opens a file, a folder or an index lazily, and gives tensors as they are asked for; as `safetensors.safe_open`.

    Args:
        filename: As the url of `forebay.weights.open`.
        framework: "pt" for torch tensors, "np" for numpy arrays, "dlpack" for `forebay.DeviceArray`s on a GPU.
        device: Where tensors go.
        backend: Taken, and without effect: "mmap" or "pread".
        options: Those of `forebay.weights.open`.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        framework: str = "pt",
        device: Any = "cpu",
        *,
        backend: str = "mmap",
        **options: Any,
    ) -> None:
        _model.check_backend(backend)
        self._kind = framework_named(framework)
        self._framework, self._device = framework, device
        _places.check(self._kind, _places.device_named(device))
        self._weights: _model.Weights | None = _model.open(filename, **options)

    def _open(self) -> _model.Weights:
        if self._weights is None:
            raise SafetensorError("File is closed")
        return self._weights

    def _name(self, name: str) -> _model.Weights:
        weights = self._open()
        if name not in weights:
            raise SafetensorError(f"File does not contain tensor {name}")
        return weights

    def keys(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._open().keys())

    def offset_keys(self) -> list[str]:
        """Names of the tensors, in the order of their bytes."""
        return self._open().keys()

    def metadata(self) -> dict[str, str] | None:
        """What stands beside the tensors; None where there is no place for it."""
        return self._open()._metadata()

    def get_tensor(self, name: str) -> Any:
        """One tensor."""
        return self._name(name).get_tensor(name, device=self._device, framework=self._framework)

    def get_tensors(self) -> dict[str, Any]:
        """Every tensor, by name, in the order of their bytes."""
        return self._open().load(device=self._device, framework=self._framework)

    def get_slice(self, name: str) -> Slice:
        """A tensor to index: only what the index needs is read. Of frameworks that index: "pt" and "np"."""
        if isinstance(self._kind, Dlpack):
            raise ConfigError('framework="dlpack": its arrays can\'t be indexed: use slices=, or framework="pt"')
        return Slice(self._name(name), name, self._kind, self._device)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_: object) -> None:
        # Slices that were taken hold the model, and go on.
        self._weights = None


class Slice:
    """One tensor, of which parts are read by indexing as its framework does: ints, slices, lists, masks, tensors, None,
    Ellipsis."""

    def __init__(self, weights: _model.Weights, name: str, kind: Torch | Numpy, device: Any) -> None:
        self._weights, self._info = weights, weights.info(name)
        self._kind, self._device = kind, device

    def get_shape(self) -> list[int]:
        """Sizes of the dimensions, of elements as the file's header counts them."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """The type's name in the header: "BF16"."""
        return self._info.dtype

    def __getitem__(self, index: Any) -> Any:
        info = self._info
        box, rest = _box(index if isinstance(index, tuple) else (index,), info.shape)
        if BITS[info.dtype] < 8:
            rest = _of_bytes(info, box, rest)
        try:
            part = self._weights._part(info.name, box, self._kind, self._device)
        except ConfigError as error:
            if BITS[info.dtype] < 8:
                raise SafetensorError(str(error)) from None
            raise
        # One that is no tuple is given as it is: torch takes some lists for tuples.
        taken = part[rest if isinstance(index, tuple) or len(rest) != 1 else rest[0]]
        return self._kind.contiguous(taken)

    def __repr__(self) -> str:
        return f"forebay.weights.Slice({self._info.name!r}, {self._info.dtype}, {self.get_shape()})"


def _box(index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[Any, ...]]:
    """The ranges of indexes that an index needs, and the index of what is taken from them.

    What this doesn't know to narrow, and what is no index at all, is left to the framework, which has the last word.
    """
    box, rest, left = [(0, size) for size in shape], [], list(index)
    if any(each is Ellipsis for each in index):
        at = next(number for number, each in enumerate(index) if each is Ellipsis)
        known = sum(_is_basic(each) and each is not None for each in index)
        # Around arrays nobody can tell how many dimensions are meant; two of them are an error.
        if all(_is_basic(each) for each in index[:at] + index[at + 1 :]) and known <= len(shape):
            left[at : at + 1] = [slice(None)] * (len(shape) - known)
    dimension = 0
    while left and _is_basic(left[0]):
        each = left[0]
        if each is None:
            rest.append(left.pop(0))
            continue
        if dimension == len(shape):
            break
        narrowed = _narrowed(each, shape[dimension])
        if narrowed is None:
            break
        box[dimension], kept = narrowed
        rest.append(kept)
        left.pop(0)
        dimension += 1
    if left and dimension < len(shape) and (narrowed := _listed(left[0], shape[dimension])) is not None:
        box[dimension], kept = narrowed
        rest.append(kept)
        left.pop(0)
    return box, (*rest, *left)


def _is_basic(each: Any) -> bool:
    return each is None or isinstance(each, slice) or (isinstance(each, int) and not isinstance(each, bool))


def _narrowed(each: Any, size: int) -> tuple[tuple[int, int], Any] | None:
    """The range that an int or a slice needs, and what to take from it."""
    if isinstance(each, int):
        at = each + size if each < 0 else each
        return ((at, at + 1), 0) if 0 <= at < size else None
    try:
        start, stop, step = each.indices(size)
    except (TypeError, ValueError):
        return None
    if step < 0:
        return None
    return (start, max(start, stop)), slice(None, None, step)


def _listed(each: Any, size: int) -> tuple[tuple[int, int], list[int]] | None:
    """The range that a list of ints needs, and the list from its start on."""
    if not isinstance(each, list) or not each or not all(type(one) is int and -size <= one < size for one in each):
        return None
    places = [one + size if one < 0 else one for one in each]
    first = min(places)
    return (first, max(places) + 1), [place - first for place in places]


def _of_bytes(info: _model.TensorInfo, box: list[tuple[int, int]], rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of elements smaller than a byte only ranges can be taken: the last dimension is of bytes."""
    whole = slice(None)
    last = rest[len(info.shape) - 1] if len(rest) >= len(info.shape) else whole
    if last not in (whole, slice(None, None, 1)) or any(each is None or not _is_basic(each) for each in rest):
        raise SafetensorError(
            f"tensor {info.name!r}: {info.dtype} elements are smaller than a byte: index it by ints and ranges, and its last "
            "dimension by whole bytes"
        )
    ends_inside = bool(box) and (box[-1][1] - box[-1][0]) * BITS[info.dtype] % 8 != 0
    if ends_inside and any(each not in (whole, slice(None, None, 1)) for each in rest):
        raise SafetensorError(
            f"tensor {info.name!r}: rows of {info.dtype} that end inside a byte are given in one dimension: take ranges, not ints"
        )
    return () if ends_inside else rest
