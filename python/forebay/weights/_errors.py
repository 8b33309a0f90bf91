"""`SafetensorError`: ours, and safetensors' own where that is installed, so that code which catches theirs catches ours."""

from __future__ import annotations

from forebay import _errors
from forebay._errors import DataError

try:
    from safetensors import SafetensorError as _Theirs
except ImportError:
    _bases: tuple[type[Exception], ...] = (DataError,)
else:
    _bases = (DataError, _Theirs)

SafetensorError: type[DataError] = type(
    "SafetensorError",
    _bases,
    {
        "__module__": "forebay.weights",
        "__doc__": "A file of weights, or an index of them, that is not what it claims to be.",
    },
)
# What the extension module raises by this name.
_errors._CLASSES["SafetensorError"] = SafetensorError
