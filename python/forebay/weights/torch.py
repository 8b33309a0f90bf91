"""As `safetensors.torch`: files as torch tensors."""

from forebay.weights._model import load_file, load_model

__all__ = ["load_file", "load_model"]
