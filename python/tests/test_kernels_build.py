"""What builds the device's kernels, `gpu/kernels/build.py`: a compiler that doesn't end is ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "gpu/kernels"
HANGS = """
import ctypes, build
with build.watched("NVRTC", 60):
    print("one that ends goes on", flush=True)
with build.watched("NVRTC", 0.1):
    ctypes.CDLL(None).pause()
"""


def test_a_compiler_that_never_ends_is_an_error_that_says_where_to_look() -> None:
    command = [sys.executable, "-c", HANGS]
    ended = subprocess.run(command, cwd=KERNELS, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "one that ends goes on\n")
    assert "NVRTC has not ended after 0.1 s: look at what changed last in gpu/kernels" in ended.stderr
