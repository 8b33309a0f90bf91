"""Batches of small records, for the peers on torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def collate(samples: list[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """Arrays [rows, features] and the rows' documents."""
    arrays, documents = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(arrays)), list(documents)
