"""The demo, small: its checks pass, and it leaves its picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need_weed
from PIL import Image


@pytest.mark.parametrize("origin", ["local", "s3"])
def test_the_demo_passes_its_own_checks(tmp_path: Path, origin: str) -> None:
    if origin == "s3":
        need_weed()
    demo = Path(__file__).parents[2] / "demo" / "demo.py"
    sheet = tmp_path / "sheet.png"
    small = ["--shards", "3", "--samples", "30", "--batch-size", "16", *["--local"] * (origin == "local")]
    command = [sys.executable, str(demo), "--folder", str(tmp_path / "demo"), "--sheet", str(sheet), *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "the 42 missing samples, each once" in done.stdout
    with Image.open(sheet) as picture:
        assert picture.size == (896, 224)
