"""`make gpu-check` on the simulated driver: all of it runs, and its JSON says what is exact. No figure of it means anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
BIN, DEVICE_TESTS = (os.environ.get(name) for name in ("FOREBAY_TEST_BIN", "FOREBAY_TEST_DEVICE"))

pytestmark = [
    pytest.mark.simulator,
    pytest.mark.skipif(not (BIN and DEVICE_TESTS), reason="`make test-gpu` builds the programs that it runs"),
]


def gpu_check(tmp_path: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    assert BIN
    assert DEVICE_TESTS
    work = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    programs = ["--bin", BIN, "--conformance", DEVICE_TESTS]
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("python", "demo", "benches"))
    return subprocess.run(
        [sys.executable, "-m", "harness.gpu", *work, *programs, "--select", SELECTED, "--threads=2", *more],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


# A few of the package's tests stand for all of them, which run anyway.
SELECTED = "test_bytes_cross_the_bus_once or test_a_batch_may_be_dropped or test_doctor"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("gpu-check")
    ended = gpu_check(tmp_path, "--simulated")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert found["wrong"] == []
    return found


def test_it_says_that_nothing_of_it_is_hardware(found: dict[str, Any]) -> None:
    assert found["simulated"] is True
    assert "no figure here is one of any hardware" in found["note"]
    assert found["copies"]["reached"] is None
    assert "Simulated" in found["machine"]["gpu"]["tried"][0]["name"]


def test_it_tells_the_machine(found: dict[str, Any]) -> None:
    device = found["machine"]["gpu"]["tried"][0]
    for name in ("uuid", "pci", "capability", "total_bytes", "free_bytes", "memory", "pins"):
        assert device[name], name
    assert found["machine"]["gpu"]["cuda"] == "12.0"
    assert found["machine"]["processor"]
    assert found["machine"]["commit"]


def test_both_sets_of_tests_were_run(found: dict[str, Any]) -> None:
    for tests in found["tests"].values():
        assert tests["failed"] == []
        assert tests["passed"] >= 3


def test_copies_stand_beside_their_limit(found: dict[str, Any]) -> None:
    copies = found["copies"]
    assert copies["limit_gbps"] == max(copies["pinned_arena_gbps"]["median"], copies["pinned_by_driver_gbps"])
    assert copies["goal"] == 0.9
    assert [each["batch"]["images"] for each in copies["staged"]] == [8, 16]
    for each in copies["staged"]:
        assert each["batch"]["batch_bytes"] == each["batch"]["images"] * (224 * 224 * 3 + 8)
        assert each["share_of_limit"] == each["gbps"]["median"] / copies["limit_gbps"]
    assert copies["pageable_gbps"]["median"] > 0


def test_every_byte_crosses_the_bus_once_and_every_number_is_the_cpus(found: dict[str, Any]) -> None:
    loading = found["loading"]
    for name, epochs in loading.items():
        assert epochs["images_per_second"] > 0
        on_device = name.endswith("device")
        assert ("exact" in epochs) == on_device
        if on_device:
            assert epochs["exact"]
            assert epochs["copied_bytes"] == epochs["due_bytes"] > 0
            assert epochs["copy_path"] == "pinned"
            assert "device" in epochs["stall_seconds"]
    assert loading["decoded_on_host_converted_on_device"]["output"]["dtype"] == "float16"
    compared = found["compared"]
    assert len(compared) == 5
    for each in compared.values():
        assert each["equal"]
        assert each["samples"] > 0
        assert each["largest_difference"] == 0


def test_jpegs_decoded_by_the_device_stand_beside_those_of_the_cpu(found: dict[str, Any]) -> None:
    jpeg = found["jpeg"]
    assert jpeg["library"].startswith("nvJPEG 12.4.0 (")
    assert jpeg["backend"] == "device"
    assert jpeg["passed_over"].startswith("engines: ")
    cpu, gpu, auto = (jpeg["decode_on"][on] for on in ("cpu", "gpu", "auto"))
    for epochs in (cpu, gpu, auto):
        assert epochs["images_per_second"] > 0
        assert epochs["exact"]
        assert epochs["refused"] == {}
    assert (cpu["on_device"], gpu["on_device"]) == (0, gpu["of"])
    assert 0 < auto["on_device"] < auto["of"]
    assert auto["on"] in ("cpu", "gpu")
    assert "images/s" in auto["why"]
    assert cpu["copied_bytes"] == cpu["of"] * (224 * 224 * 3 + 8)
    assert gpu["copied_bytes"] == gpu["of"] * 8
    assert gpu["compressed_bytes"] > 0


def test_how_far_its_pixels_are_from_the_cpus_is_told_by_kind(found: dict[str, Any]) -> None:
    """The simulated nvJPEG's are those of libjpeg-turbo."""
    levels = found["jpeg"]["levels"]
    assert list(levels) == ["4:4:4", "4:2:2", "4:2:0", "grey", "progressive", "CMYK"]
    for kind, each in levels.items():
        refused = {"unsupported": each["images"]} if kind == "CMYK" else {}
        assert each["images"] == 16
        assert (each["on_device"], each["refused"]) == (16 - sum(refused.values()), refused)
        for name in ("decoded", "resized"):
            assert each[name] == {"largest": 0, "mean": 0, "share_that_differs": 0}


def test_epochs_from_the_tier_are_those_of_the_cpu_and_nothing_else_is_copied(found: dict[str, Any]) -> None:
    tier = found["tier"]
    assert list(tier) == ["random_resized_crop", "crop"]
    for epochs in tier.values():
        assert epochs["images_per_second"] > 0
        assert epochs["samples_by_tier"] == {
            "gpu": epochs["images"],
            "decoded": 0,
            "memory": 0,
            "nvme": 0,
            "origin": 0,
        }
        assert epochs["exact"]
        assert epochs["copied_bytes"] == epochs["images"] * (96 + 8)
        assert epochs["kept_samples"] * 2 == epochs["images"]
        assert epochs["kept_bytes"] > 0
        assert epochs["compared"] == {
            "samples": 64,
            "equal": True,
            "numbers_that_differ": 0,
            "largest_difference": 0,
            "from_the_device": 32,
        }


def test_what_is_wrong_ends_it_with_an_error_and_stands_in_the_json(tmp_path: Path) -> None:
    """A driver that pins nothing, programs that are not there, and no nvJPEG."""
    ended = gpu_check(
        tmp_path,
        "--simulated",
        "--bin",
        str(tmp_path),
        FOREBAY_FAKE_CUDA_FAULTS="cuMemHostRegister_v2@1+:2",
        FOREBAY_FAKE_CUDA_NVJPEG="0",
    )
    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    assert "is not built" in found["copies"]["failed"]
    assert any(each.startswith("test cuda::") for each in found["wrong"])
    for name in ("copies", "jpeg"):
        assert any(each.startswith(f"{name}: ") for each in found["wrong"])
    assert "nvidia-nvjpeg-cu12" in found["jpeg"]["failed"]
    assert found["tier"]["crop"]["exact"]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "is the simulated driver, and NVIDIA's was asked for"),
        (["--simulated"], {"FOREBAY_FAKE_CUDA_DEVICES": "0"}, "sees no device"),
        (["--simulated"], {"FOREBAY_FAKE_CUDA_FAULTS": "cuInit@1:999"}, "cuInit answered 999"),
        ([], {"LD_LIBRARY_PATH": "broken"}, "no NVIDIA driver"),
    ],
    ids=["simulated", "no device", "no use", "no driver"],
)
def test_without_a_device_it_ends_at_once_and_says_why(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    if folder := environment.get("LD_LIBRARY_PATH"):
        environment = {"LD_LIBRARY_PATH": str(tmp_path / folder)}
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "libcuda.so.1").write_text("no library")
    ended = gpu_check(tmp_path, *arguments, **environment)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert words in ended.stderr
    assert not (tmp_path / "out.json").exists()
