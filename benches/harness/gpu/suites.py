"""The tests of the device path: the crate's on its device trait, and those of the Python package from the outside."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from ..measure import Answer, Failed, last_lines, running
from ..place import Place

TESTS = Path(__file__).resolve().parents[3] / "python/tests/gpu"
# Real ones take some minutes.
LONGEST_SECONDS = 3600.0


def conformance(place: Place, command: str) -> Answer:
    """The crate's tests on a CUDA device, by a command that runs them. On the simulated driver a finding of its is a failure."""
    log = place.logs / "conformance.log"
    log.unlink(missing_ok=True)
    status = run([*shlex.split(command), "cuda::", "--ignored"], log, {"FOREBAY_FAKE_CUDA_EXIT_CODE": "9"})
    found = re.findall(r"^test (\S+) \.\.\. (\w+)", log.read_text(errors="replace"), re.MULTILINE)
    failed = [name for name, result in found if result == "FAILED"]
    if not found or (status and not failed):
        raise Failed(f"the tests of the device trait ended with {status}: {last_lines(log)}")
    return {"passed": sum(result == "ok" for _, result in found), "failed": failed, "skipped": 0}


def python(place: Place, simulated: bool, selected: str | None) -> Answer:
    """The package's tests: on a real driver those that need nothing of the simulator. `selected` is for pytest's -k."""
    log, report = place.logs / "tests.log", place.logs / "tests.xml"
    report.unlink(missing_ok=True)
    options = ["-q", f"--junitxml={report}", "--ignore", str(TESTS / "test_gpu_check.py")]
    options += ["-k", selected] if selected else []
    driver = {"FOREBAY_TEST_DRIVER": "simulated" if simulated else "real"}
    status = run([sys.executable, "-m", "pytest", str(TESTS), *options], log, driver)
    if not report.exists():
        raise Failed(f"pytest ended with {status}: {last_lines(log)}")
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if is_any(case, "failure", "error")]
    skipped = sum(is_any(case, "skipped") for case in cases)
    if not cases or (status and not failed):
        raise Failed(f"pytest ended with {status} and {len(cases)} tests: {last_lines(log)}")
    return {"passed": len(cases) - len(failed) - skipped, "failed": failed, "skipped": skipped}


def is_any(case: xml.etree.ElementTree.Element, *kinds: str) -> bool:
    return any(case.find(kind) is not None for kind in kinds)


def run(command: list[str], log: Path, env: dict[str, str]) -> int:
    """Its exit code. What it says goes to the log."""
    with running(command, log, env) as process:
        try:
            return process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"{Path(command[0]).name} was ended after {LONGEST_SECONDS:.0f} s") from None
