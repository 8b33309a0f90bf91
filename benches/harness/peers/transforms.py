"""What the PyTorch peers do with an image: torchvision's v2 transforms, on Pillow images or on decoded tensors.

https://docs.pytorch.org/vision/stable/transforms.html recommends v2, and tensors over Pillow images. Both ways end in uint8,
height × width × 3. With `check`, the fixed geometry that the harness compares.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2


def geometry(check: bool) -> Any:
    if check:
        return v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    return v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])


class WithPillow:
    """JPEG bytes to a tensor: Pillow decodes and resizes."""

    def __init__(self, check: bool) -> None:
        self.geometry = geometry(check)

    def __call__(self, jpeg: bytes) -> Any:
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return torch.from_numpy(np.array(self.geometry(image)))


class WithTorchvision:
    """JPEG bytes to a tensor: torchvision.io decodes, torch resizes."""

    def __init__(self, check: bool) -> None:
        self.geometry = geometry(check)

    def __call__(self, jpeg: bytes) -> Any:
        encoded = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        image = decode_jpeg(encoded, mode=ImageReadMode.RGB)
        # Decoded images lie channels last, so this is a view again.
        return self.geometry(image).permute(1, 2, 0)


def collate(samples: list[tuple[Any, int]]) -> tuple[Any, Any]:
    """A batch: images [rows, 224, 224, 3] and labels."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)
