"""Keeps data right before a GPU: shards from object storage, through NVMe, as batches.

    loader = forebay.DataLoader("s3://photos/train-{000000..000007}.tar", batch_size=256, shuffle=True,
                                fields={"image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(224)]),
                                        "label": forebay.Int("cls")})
    for batch in loader:
        images = torch.from_dlpack(batch["image"])

`forebay.torch.DataLoader` gives torch tensors. Neither torch nor numpy is needed to import this package.
"""

from forebay._batch import Batch
from forebay._conversions import Cast, Layout, Normalize
from forebay._errors import (
    CacheError,
    ChangedError,
    ConfigError,
    DataError,
    DeviceError,
    Error,
    ForkError,
    InternalError,
    NotFoundError,
    OriginError,
    PermissionError,
    StalledError,
    StateError,
    TimeoutError,
)
from forebay._fields import Bytes, Field, Float, Image, Int, Json, Mask, Numpy, Text
from forebay._forebay import Array, DeviceArray, __version__
from forebay._loader import DataLoader
from forebay._stats import Stats
from forebay._transforms import CenterCrop, RandomCrop, RandomHorizontalFlip, RandomResizedCrop, Resize, Transform

__all__ = [
    "Array",
    "Batch",
    "Bytes",
    "CacheError",
    "Cast",
    "CenterCrop",
    "ChangedError",
    "ConfigError",
    "DataError",
    "DataLoader",
    "DeviceArray",
    "DeviceError",
    "Error",
    "Field",
    "Float",
    "ForkError",
    "Image",
    "Int",
    "InternalError",
    "Json",
    "Layout",
    "Mask",
    "Normalize",
    "NotFoundError",
    "Numpy",
    "OriginError",
    "PermissionError",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "Resize",
    "StalledError",
    "StateError",
    "Stats",
    "Text",
    "TimeoutError",
    "Transform",
    "__version__",
]
