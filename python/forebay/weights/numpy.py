"""As `safetensors.numpy`: files as numpy arrays."""

from __future__ import annotations

from forebay.weights import _model

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any

__all__ = ["load_file"]


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap", **options: Any) -> dict[str, Any]:
    """Loads a file, folder or index into numpy arrays of their own, by name, in the order of their bytes.

    bfloat16 and 8-bit floats are ml_dtypes' types where that package is installed, a TypeError where not. `options` are those of
    `forebay.weights.open`.
    """
    _model.check_backend(backend)
    with _model.open(filename, **options) as weights:
        return weights.load(framework="np")
