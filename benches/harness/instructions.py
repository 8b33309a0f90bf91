"""`make instructions`: how many instructions the hot functions take, against what they took when that was last written down.

python -m harness.instructions --bin FOLDER --work FOLDER [--update]

Counted by valgrind, which is the same on every machine with AVX2 and however busy it is; of one compiler, so that another one's
counts are said, and not compared. A case is run twice, few times and more often: the difference has no start-up in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import photos

WRITTEN = Path(__file__).resolve().parent.parent / "instructions.json"
PHOTOGRAPHS = 8
# Below a hundredth the counts differ from build to build, since code is laid out anew.
TOLERANCE = 0.02
FEW = {"order_seek": 1000}


def main() -> int:
    arguments = parse_arguments()
    program = arguments.bin / "hot"
    [shard] = photos.cut(arguments.work / f"photos-{PHOTOGRAPHS}", 1, PHOTOGRAPHS)
    cases = json.loads(subprocess.check_output([program, "--list"]))["cases"]
    now = {name: each(program, shard, name, arguments.work) for name, _ in cases}
    compiler = subprocess.check_output(["rustc", "--version"], text=True).strip()
    if arguments.update:
        about = {name: {"what": what, "instructions": now[name]} for name, what in cases}
        WRITTEN.write_text(json.dumps({"compiler": compiler, "cases": about}, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {WRITTEN.name}")
        return 0
    written = json.loads(WRITTEN.read_text())
    if written["compiler"] != compiler:
        print(f"counts were written for {written['compiler']}; this is {compiler}: shown, not compared")
    worse = report(now, written["cases"])
    return 1 if worse and written["compiler"] == compiler else 0


def each(program: Path, shard: Path, name: str, work: Path) -> int:
    """Instructions of one run of a case."""
    few = FEW.get(name, PHOTOGRAPHS)
    return (count(program, shard, name, 3 * few, work) - count(program, shard, name, few, work)) // (2 * few)


def count(program: Path, shard: Path, name: str, times: int, work: Path) -> int:
    out = work / "instructions.out"
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}"]
    done = subprocess.run([*command, program, "--shard", shard, name, str(times)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"valgrind ended with {done.returncode} on {name}:\n{done.stderr.strip()}")
    [summary] = [line for line in out.read_text().splitlines() if line.startswith("summary:")]
    return int(summary.split()[1])


def report(now: dict[str, int], written: dict[str, Any]) -> bool:
    """Prints the counts; True where one is beyond the tolerance, or nothing is written of it."""
    worse = False
    for name, instructions in now.items():
        before = written.get(name, {}).get("instructions")
        change = instructions / before - 1 if before else None
        verdict = "not written down: run make instructions UPDATE=1" if change is None else f"{change:+.1%}"
        if change is None or change > TOLERANCE:
            worse = True
            verdict += "  WORSE"
        elif change < -TOLERANCE:
            verdict += "  better: write it down with make instructions UPDATE=1"
        print(f"{name:14} {instructions:>14,} instructions  {verdict}")
    return worse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="harness.instructions", description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="where the release build of hot is")
    parser.add_argument("--work", type=Path, required=True, help="a folder for photographs and counts")
    parser.add_argument("--update", action="store_true", help="write the counts down")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
