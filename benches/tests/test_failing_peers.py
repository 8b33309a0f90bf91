"""A peer that can't be installed, fails, or gives something else is shown as such; the others go on."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import child, install, pixels, report
from harness.measure import Contender, Failed, execute, rows, take_turns
from harness.workloads import jpeg_training
from PIL import Image


def wheel(folder: Path, name: str) -> None:
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds packages in this folder alone, and installs into `tmp_path / "site"`."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "TARGET": str(tmp_path / "site")}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def test_what_cannot_be_installed_is_noted_with_its_reason_and_the_rest_is_installed(
    index: Path, tmp_path: Path
) -> None:
    for name in ("first", "last"):
        wheel(index, name)
    wanted, notes = tmp_path / "wanted.txt", tmp_path / "notes.json"
    wanted.write_text(
        "# the peers\n\nfirst==1.0\n\nbroken==2.0 # from nowhere\nlast==1.0\n\nlast==1.0; python_version > '3'\n"
    )

    assert install.main([str(wanted)], notes) == 0

    assert {path.name for path in (tmp_path / "site").glob("*.py")} == {"first.py", "last.py"}
    assert "broken==2.0" in (install.refused("broken", notes) or "")
    assert "broken==2.0" in (install.refused("last", notes) or ""), "they stand together"
    assert install.refused("first", notes) is None


def test_an_index_out_of_reach_is_no_peer_that_fails(index: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("first==1.0\n\nlast==1.0\n")
    assert install.main([str(wanted)], tmp_path / "notes.json") == 1


def test_the_reason_is_what_the_package_s_build_says() -> None:
    output = "  RuntimeError: Could not find required package: opencv.\n  [end of output]\nerror: subprocess-exited\n"
    assert install.reason(output) == "RuntimeError: Could not find required package: opencv."
    assert (
        install.reason("ERROR: No matching distribution found for x\n") == "ERROR: No matching distribution found for x"
    )


def python(name: str, program: str, log: Path) -> Contender:
    return Contender(name, lambda _: execute([sys.executable, "-c", program], log))


def test_a_peer_that_crashes_is_left_out_and_shown_and_the_others_take_all_their_turns(tmp_path: Path) -> None:
    good = """print('{"value": 2.0, "seconds": 3.0, "cpu_seconds": 6.0, "peak_rss_bytes": 7}')"""
    log = tmp_path / "log"

    def not_there(_: int) -> dict[str, Any]:
        raise Failed("ffcv does not install: no opencv")

    runs = take_turns(
        [
            python("good", good, log),
            python("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", log),
            python("raises", "raise LookupError('no such shard')", log),
            python("silent", "", log),
            Contender("not there", not_there),
        ],
        rounds=2,
    )

    table = {row["contender"]: row for row in rows(runs, "images/s")}
    assert (table["good"]["runs"], table["good"]["median"], table["good"]["cpu_seconds_per_unit"]) == (2, 2.0, 1.0)
    assert "ended with -9" in table["killed"]["errors"][0]
    assert "no such shard" in table["raises"]["errors"][0]
    assert [len(table[name]["errors"]) for name in ("killed", "raises", "silent", "not there")] == [1, 1, 1, 1]
    result = {"title": "T", "unit": "images/s", "conditions": "", "commands": {}, "wall_seconds": 1.0}
    result["rows"] = list(table.values())
    assert "failed: Failed: ffcv does not install: no opencv" in report.workload(result)


def test_targets_over_a_peer_without_a_figure_are_not_met_and_not_measured() -> None:
    table: list[dict[str, Any]] = [
        {"case": "NVMe", "contender": "forebay", "median": 90.0, "cpu_seconds_per_unit": 1.0},
        {"case": "NVMe", "contender": jpeg_training.LIMIT, "median": 100.0, "cpu_seconds_per_unit": 1.0},
        {"case": "NVMe", "contender": "SPDL", "errors": ["Failed"]},
    ]
    found = {target["what"]: (target["reached"], target["met"]) for target in jpeg_training.targets(table)}
    assert found["images/s over crop decode + resize alone, NVMe"] == (0.9, True)
    assert found["CPU per image over crop decode + resize alone, NVMe"] == (1.0, True)
    assert found["images/s over SPDL, NVMe"] == (None, None)


def test_batches_of_another_shape_or_dtype_are_refused() -> None:
    for output in ({"shape": [256, 3, 224, 224], "dtype": "uint8"}, {"shape": [256, 224, 224, 3], "dtype": "float32"}):
        with pytest.raises(ValueError, match="and should be"):
            jpeg_training.checked({"value": 1.0, "output": output})


def test_differences_of_pixels_are_mean_levels_per_image() -> None:
    expected = np.full((2, 4, 4, 3), 100, np.uint8)
    batch = expected.copy()
    batch[1] -= 3
    assert pixels.differences(batch, expected) == {"mean": 1.5, "most": 3.0}
    with pytest.raises(ValueError, match="should be uint8"):
        pixels.differences(batch.astype(np.float32), expected)


def test_the_fixed_geometry_is_the_middle_of_the_shorter_side_at_256() -> None:
    ramp = Image.fromarray(np.tile(np.arange(512, dtype=np.uint16) // 2, (256, 1)).astype(np.uint8)).convert("RGB")
    image = np.asarray(pixels.fixed(ramp))
    assert image.shape == (224, 224, 3)
    assert (image[0, 0, 0], image[0, -1, 0]) == ((512 - 224) // 2 // 2, ((512 - 224) // 2 + 223) // 2)


PEER = """
import json, os, subprocess, sys, time
import numpy
from harness.child import epochs, main

def run(settings, meter):
    burn = "import os, sys, time; held = b'1' * (300 << 20)\\nwhile time.process_time() < 0.3: pass\\n"
    burn += "os.write(int(sys.argv[1]), b'1'); time.sleep(600)"
    def batches():
        there, ready = os.pipe()
        # It has the peer's standard output, which is open for as long as one of them lives.
        subprocess.Popen([sys.executable, "-c", burn, str(ready)], pass_fds=[ready])
        os.read(there, 1)
        yield numpy.full((4, 2), 7, numpy.uint8), [0] * 4
    epochs(settings, meter, batches)
main(run)
"""


def peer(settings: dict[str, Any], log: Path) -> Any:
    folder = str(Path(child.__file__).parents[1])
    return execute([sys.executable, "-c", PEER, json.dumps(settings)], log, {"PYTHONPATH": folder}, longest=60.0)


def test_workers_count_with_the_peer_and_end_with_it(tmp_path: Path) -> None:
    answer = peer({"epochs": 2}, tmp_path / "log")
    # It came back at all: workers that sleep for ten minutes hold the peer's standard output, and so the harness.
    assert answer["samples"] == 8
    assert answer["output"] == {"shape": [4, 2], "dtype": "uint8"}
    assert answer["cpu_seconds"] >= 0.5  # 0.3 in each epoch, which the kernel counts in ticks
    assert answer["peak_rss_bytes"] > 300 << 20


def test_a_check_gives_the_first_batch_and_no_figure(tmp_path: Path) -> None:
    answer = peer({"check": str(tmp_path / "batch.npy")}, tmp_path / "log")
    assert np.array_equal(np.load(tmp_path / "batch.npy"), np.full((4, 2), 7))
    assert "value" not in answer


def test_a_conversion_that_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    settings = {"converted": str(tmp_path / "own")}

    def interrupted(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "half").touch()
        raise KeyboardInterrupt

    def whole(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        child.converted(settings, interrupted)
    assert not (tmp_path / "own").exists()
    assert child.converted(settings, whole) == str(tmp_path / "own")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["whole"]
    assert child.converted(settings, interrupted) == str(tmp_path / "own"), "it is there already"
