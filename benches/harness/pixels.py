"""The check of contenders' pixels: their first batch, without randomness, against Pillow's."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHORTER, SIDE = 256, 224


def fixed(image: Image.Image) -> Image.Image:
    """The shorter side to 256, then the middle 224 × 224, as torchvision rounds."""
    width, height = image.size
    shorter = min(width, height)
    width, height = SHORTER * width // shorter, SHORTER * height // shorter
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return image.crop((left, top, left + SIDE, top + SIDE))


def reference(shard: Path, count: int) -> Any:
    """The first photographs of a shard, decoded and resized by Pillow."""
    with tarfile.open(shard) as tar:
        jpegs = [tar.extractfile(member) for member in tar if member.name.endswith(".jpg")][:count]
        return np.stack(
            [np.asarray(fixed(Image.open(io.BytesIO(file.read())).convert("RGB"))) for file in jpegs if file]
        )


def differences(batch: Any, expected: Any) -> dict[str, float]:
    """Mean absolute differences in levels, of 255: `mean` over all images, `most` of the image with the largest one."""
    if batch.shape != expected.shape or batch.dtype != expected.dtype:
        raise ValueError(
            f"the batch to check is {batch.dtype} {list(batch.shape)}, and should be {expected.dtype} {list(expected.shape)}"
        )
    each = np.abs(batch.astype(np.int16) - expected).mean(axis=(1, 2, 3))
    return {"mean": float(each.mean()), "most": float(each.max())}
