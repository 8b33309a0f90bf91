"""`forebay doctor` about GPUs: what a device gives, found by using it, and what each lack costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def doctor(tmp_path: Path, **settings: str) -> tuple[dict[str, Any], str]:
    """What it finds on a machine of its own, as JSON and as text. Nothing may be found wrong with how it asks."""
    environment = {f"FOREBAY_FAKE_CUDA_{name}".upper(): each for name, each in settings.items() if name.islower()}
    environment |= {name: each for name, each in settings.items() if not name.islower()}
    environment = {**os.environ, "FOREBAY_FAKE_CUDA_EXIT_CODE": "9", **environment}
    command = [sys.executable, "-m", "forebay", "doctor", "--cache-dir", str(tmp_path)]
    said = [
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False, timeout=120)
        for more in (["--json"], [])
    ]
    assert [each.returncode for each in said] == [0, 0], said
    return json.loads(said[0].stdout), said[1].stdout


def lacks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings about GPUs and the memory that they read."""
    words = ("GPU", "driver", "CUDA", "cuda")
    return [each for each in found["findings"] if any(word in each["what"] for word in words)]


def test_a_device_is_told_with_all_that_it_gives(tmp_path: Path) -> None:
    found, text = doctor(tmp_path)
    gpu = found["gpu"]
    assert gpu["present"]
    assert gpu["error"] is None
    assert gpu["cuda"] is not None
    assert Path(gpu["libcuda"]).name.startswith("libcuda.so")
    device = gpu["tried"][0]
    assert device["name"].startswith("cuda:0 (")
    assert device["uuid"].startswith(("GPU-", "MIG-"))
    assert 0 < device["free_bytes"] <= device["total_bytes"]
    assert device["memory"] in ("virtual memory", "cuMemAlloc")
    assert (device["pins"], device["pinning_error"], device["error"]) == (True, None, None)
    for words in (device["name"], device["uuid"], device["capability"], gpu["libcuda"], "host memory can be pinned"):
        assert words in text
    assert all("JPEG" in lack["what"] for lack in lacks(found)), "what needs a library beside the driver"


@pytest.mark.simulator
def test_every_device_and_the_driver_that_was_loaded(tmp_path: Path) -> None:
    found, _ = doctor(tmp_path, devices="2", vmm="0", version="12040")
    gpu = found["gpu"]
    assert gpu["cuda"] == "12.4"
    assert gpu["libcuda"] == str(Path(os.environ["LD_LIBRARY_PATH"], "libcuda.so.1"))
    assert [device["name"] for device in gpu["tried"]] == [f"cuda:{at} (Forebay Simulated GPU)" for at in range(2)]
    assert [device["pci"] for device in gpu["tried"]] == ["0000:01:00.0", "0000:02:00.0"]
    assert {device["memory"] for device in gpu["tried"]} == {"cuMemAlloc"}
    assert {device["free_bytes"] for device in gpu["tried"]} == {1 << 30}


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("settings", "kind", "severity", "words"),
    [
        ({"devices": "0"}, "no_device", "note", ["no NVIDIA GPU is visible", "CUDA_VISIBLE_DEVICES"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, "no_device", "note", ["no NVIDIA GPU is visible", "CUDA_VISIBLE_DEVICES"]),
        ({"version": "11080"}, "driver_too_old", "warning", ["11.8 is too old", "12.0 (525.60)"]),
        ({"faults": "cuInit@1:999"}, "no_driver", "warning", ["cuInit failed", "CUDA_ERROR_UNKNOWN", "/dev/nvidia"]),
    ],
    ids=str,
)
def test_a_driver_that_gives_no_device_says_why(
    tmp_path: Path, settings: dict[str, str], kind: str, severity: str, words: list[str]
) -> None:
    found, text = doctor(tmp_path, **settings)
    gpu = found["gpu"]
    assert (gpu["present"], gpu["error"]["kind"], gpu["tried"]) == (False, kind, [])
    (lack,) = lacks(found)
    assert lack["severity"] == severity
    assert all(word in text for word in words), text
    assert 'device="cuda" is an error' in lack["costs"]


def test_no_driver_at_all(tmp_path: Path) -> None:
    """Found in its place is something that is none."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "libcuda.so.1").write_text("no library")
    found, _ = doctor(tmp_path, LD_LIBRARY_PATH=str(folder))
    assert (found["gpu"]["present"], found["gpu"]["error"]["kind"]) == (False, "no_driver")
    assert "libcuda.so.1 can't be opened" in lacks(found)[0]["what"]


@pytest.mark.simulator
def test_host_memory_that_can_not_be_pinned_is_a_lack_with_what_to_set(tmp_path: Path) -> None:
    found, text = doctor(tmp_path, devices="1", faults="cuMemHostRegister_v2@1+:2")
    device = found["gpu"]["tried"][0]
    assert (device["pins"], device["error"]) == (False, None)
    assert "CUDA_ERROR_OUT_OF_MEMORY" in device["pinning_error"]
    (lack,) = lacks(found)
    assert (lack["severity"], "slower" in lack["costs"]) == ("warning", True)
    assert "ulimit -l" in lack["fix"]
    assert "it is" in lack["fix"]
    assert "host memory can be pinned" not in text


@pytest.mark.simulator
def test_what_decodes_jpegs_on_it_is_told(tmp_path: Path) -> None:
    found, text = doctor(tmp_path, devices="1")
    library = "nvJPEG 12.4.0 (libnvjpeg.so.12)"
    (device,) = found["gpu"]["tried"]
    jpeg = device["jpeg"]
    assert (jpeg["library"], jpeg["backend"], jpeg["error"]) == (library, "device", None)
    assert jpeg["passed_over"].startswith("engines: NVJPEG_STATUS_")
    assert f"JPEG by {library}, backend device, {jpeg['passed_over']}" in text
    assert not lacks(found)
    found, _ = doctor(tmp_path, devices="1", jpeg_engines="1")
    jpeg = found["gpu"]["tried"][0]["jpeg"]
    assert (jpeg["backend"], jpeg["passed_over"]) == ("engines", None)


@pytest.mark.simulator
def test_nothing_that_decodes_jpegs_is_no_more_than_a_note(tmp_path: Path) -> None:
    found, text = doctor(tmp_path, devices="2", nvjpeg="0")
    for device in found["gpu"]["tried"]:
        assert (device["pins"], device["error"]) == (True, None)
        assert {**device["jpeg"], "error": None} == dict.fromkeys(device["jpeg"])
    (lack,) = lacks(found)
    assert lack["severity"] == "note"
    assert lack["what"] == found["gpu"]["tried"][0]["jpeg"]["error"]
    assert 'decode_on="gpu" is an error' in lack["costs"]
    for words in ("no JPEG decoding on cuda:0", "libnvjpeg.so.12", "pip install nvidia-nvjpeg-cu12"):
        assert words in lack["what"]
    assert lack["what"] in text
    assert "JPEG by" not in text


@pytest.mark.simulator
def test_the_wheels_library_is_found_where_loaders_find_it(tmp_path: Path) -> None:
    """Only there: on the library path is the driver alone."""
    folders = [tmp_path / "driver", tmp_path / "packages/nvidia/nvjpeg/lib"]
    for folder, name in zip(folders, ("libcuda.so.1", "libnvjpeg.so.12"), strict=True):
        folder.mkdir(parents=True)
        (folder / name).symlink_to(Path(os.environ["LD_LIBRARY_PATH"], "libcuda.so.1"))
    environment = {"LD_LIBRARY_PATH": str(folders[0])}
    found, _ = doctor(tmp_path, **environment)
    assert "found none" in found["gpu"]["tried"][0]["jpeg"]["error"]
    packages = os.pathsep.join([str(tmp_path / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])])
    found, _ = doctor(tmp_path, **environment, PYTHONPATH=packages)
    assert str(folders[1]) in found["gpu"]["tried"][0]["jpeg"]["library"]


@pytest.mark.simulator
@pytest.mark.parametrize("faults", ["cuDevicePrimaryCtxRetain@1:2", "oom@1"])
def test_a_device_that_is_taken_says_so(tmp_path: Path, faults: str) -> None:
    found, text = doctor(tmp_path, devices="1", faults=faults)
    device = found["gpu"]["tried"][0]
    assert device["error"]
    (lack,) = lacks(found)
    assert lack["what"].startswith("cuda:0")
    assert "can't be used" in lack["what"]
    assert device["error"] in text
