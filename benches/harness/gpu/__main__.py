"""Runs the device tests, measures copies and epochs, and prints one JSON object, which is written to a file too.

The exit code is 1 where a test fails, a number differs, a byte too many crosses the bus, or something can't be measured. A
goal that is missed is in the JSON, and no error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import machine
from ..measure import Answer, Failed, say
from ..place import Place, clear, locked
from . import copies, jpeg, loading, suites, tier
from .driver import NoDevice, look

VERSION = 1
NOTE = "The simulated driver did this on the processor: no figure here is one of any hardware."
# For figures; the tests keep the simulator's checks.
MEASURING = {
    "FOREBAY_FAKE_CUDA_DELAY_US": "0",
    "FOREBAY_FAKE_CUDA_GUARD": "0",
    "FOREBAY_FAKE_CUDA_LEAKS": "0",
    "FOREBAY_FAKE_CUDA_ALLOW": "pageable",
}


def check(arguments: argparse.Namespace, place: Place) -> Answer:
    """Everything, section by section; one that fails says why, and the others go on."""
    simulated = arguments.simulated
    result: Answer = {"schema": VERSION, "simulated": simulated}
    if simulated:
        result["note"] = NOTE
    tests: dict[str, Callable[[], Answer]] = {
        "device_trait": lambda: suites.conformance(place, arguments.conformance),
        "python": lambda: suites.python(place, simulated, arguments.select),
    }
    figures: dict[str, Callable[[], Answer]] = {
        "copies": lambda: copies.measure(place),
        "loading": lambda: loading.measure(place),
        "compared": lambda: loading.compare(place),
        "jpeg": lambda: jpeg.measure(place),
        "tier": lambda: tier.measure(place),
    }
    result["machine"] = section("machine", lambda: describe(place))
    result["tests"] = {name: section(name, part) for name, part in tests.items()}
    if simulated:
        os.environ.update(MEASURING)
    result |= {name: section(name, part) for name, part in figures.items()}
    if simulated and "failed" not in result["copies"]:
        result["copies"]["reached"] = None
    return result | {"wrong": wrong(result)}


def section(name: str, part: Callable[[], Answer]) -> Answer:
    say(f"gpu-check: {name}")
    try:
        return part()
    except (Failed, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        say(f"  failed: {error}")
        return {"failed": f"{type(error).__name__}: {error}"}


def describe(place: Place) -> Answer:
    """The machine, and its GPUs as `forebay doctor` finds them."""
    # The package's own, which finds nvJPEG where loaders do.
    command = [sys.executable, "-m", "forebay", "doctor", "--json", "--cache-dir", str(place.work / "doctor")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        doctor = json.loads(said.stdout)
    except json.JSONDecodeError:
        raise Failed(f"forebay doctor ended with {said.returncode}: {said.stderr.strip()}") from None
    lacks = [finding["what"] for finding in doctor["findings"] if finding["severity"] != "note"]
    about = machine.describe(place.work, place.bin)
    about["versions"] = {name: version for name, version in about["versions"].items() if version != "not installed"}
    links = {device["pci"]: link(device["pci"]) for device in doctor["gpu"]["tried"] if device["pci"]}
    return {**about, "decoding_threads": place.threads, "gpu": doctor["gpu"], "links": links, "lacks": lacks}


def link(pci: str) -> dict[str, str]:
    """A device's place on the bus, as the kernel tells it: an idle one may show a slower link than it has."""
    folder = Path("/sys/bus/pci/devices", pci.lower())
    names = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
    return {name: (folder / name).read_text().strip() for name in names if (folder / name).exists()}


def wrong(result: Answer) -> list[str]:
    """What is not as it must be, whatever the machine; empty where all is right."""
    found = [
        f"{name}: {part['failed']}" for name, part in result.items() if isinstance(part, dict) and "failed" in part
    ]
    for name, part in result["tests"].items():
        failed = part["failed"]
        found += [f"test {each}" for each in failed] if isinstance(failed, list) else [f"tests, {name}: {failed}"]
    epochs = {name: result[name] for name in ("loading", "tier")} | {"jpeg": result["jpeg"].get("decode_on", {})}
    for where, of in epochs.items():
        for name, part in parts(of):
            if not part.get("exact", True):
                crossed = f"{part['copied_bytes']} bytes crossed the bus, and {part['due_bytes']} had to"
                found.append(f"{where}, {name}: {crossed}")
    for name, part in parts(result["compared"]):
        if not part["equal"]:
            found.append(f"{name}: {part['numbers_that_differ']} numbers differ from the CPU's")
    for where, lines in (("jpeg", jpeg.wrong), ("tier", tier.wrong)):
        if "failed" not in result[where]:
            found += [f"{where}, {line}" for line in lines(result[where])]
    return found


def parts(found: Answer) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in found.items() if isinstance(part, dict)]


def main() -> int:
    arguments = parse_arguments()
    try:
        look(arguments.simulated)
    except NoDevice as error:
        raise SystemExit(f"gpu-check: {error}") from None
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        place = Place(
            work=work / "run",
            kept=work,
            bin=arguments.bin,
            logs=work / "logs",
            threads=arguments.threads,
            rounds=3 if arguments.simulated else 7,
            small=arguments.simulated,
        )
        clear(place.work)
        clear(place.logs)
        result = check(arguments, place)
        clear(place.work)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    arguments.out.write_text(text + "\n")
    print(text)
    for line in result["wrong"]:
        say(f"gpu-check: wrong: {line}")
    say(f"gpu-check: written to {arguments.out}; what the programs said is in {work / 'logs'}")
    return 1 if result["wrong"] else 0


def parse_arguments() -> argparse.Namespace:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="where forebay-bench's programs and forebay are built")
    parser.add_argument(
        "--conformance", required=True, help="a command that runs the crate's device tests, less what selects them"
    )
    parser.add_argument("--simulated", action="store_true", help="run on the simulated driver: everything, and small")
    parser.add_argument("--select", help="of the package's tests those that match, as pytest's -k")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="that decode (default: %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=home / "gpu-check", help="data, caches and logs (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
