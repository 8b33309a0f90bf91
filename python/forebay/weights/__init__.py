"""Model weights: safetensors from an object store or a disk, through the cache, as tensors of one's own.

    state = load_file("s3://models/llama/model-00001-of-00002.safetensors", device="cuda:0")

    for name, tensor in stream("s3://models/llama/"):  # all files, in their order, as they arrive
        parameters[name].copy_(tensor)

`safe_open`, `load_file` and `load_model` take what safetensors' own take, and URLs besides. Tensors own their memory.
"""

from forebay.weights._errors import SafetensorError
from forebay.weights._model import (
    BadBlock,
    Checked,
    Fetched,
    File,
    TensorInfo,
    Weights,
    load_file,
    load_model,
    open,
    stream,
)
from forebay.weights._safe_open import safe_open

__all__ = [
    "BadBlock",
    "Checked",
    "Fetched",
    "File",
    "SafetensorError",
    "TensorInfo",
    "Weights",
    "load_file",
    "load_model",
    "open",
    "safe_open",
    "stream",
]
