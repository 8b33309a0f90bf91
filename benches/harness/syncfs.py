"""Waiting until a file system's data is on its disk."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def syncfs(folder: Path | str) -> None:
    """The system call of that name, for the file system of this folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
