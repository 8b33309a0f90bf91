"""`make bench`: runs the workloads, one after the other, and writes what came out.

python -m harness --bin FOLDER [--work FOLDER] [--only NAME ...] [--small]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import machine, report, workloads
from .measure import Failed, say
from .place import Place, free_bytes

SCHEMA = 1
BENCHES = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = parse_arguments()
    names = arguments.only or [module.name for module in pkgutil.iter_modules(workloads.__path__)]
    chosen = {name: importlib.import_module(f"{workloads.__name__}.{name}") for name in names}
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    need = max(module.NEED_BYTES for module in chosen.values())
    if free_bytes(work) < need:
        raise SystemExit(
            f"{work} has {free_bytes(work) / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are needed; "
            "name another folder with --work"
        )
    about = machine.describe(work)
    if about["load"][0] > 0.5:
        say(f"the machine is not quiet (load {about['load'][0]:.1f}): figures will be lower, and vary more")
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    folder = arguments.results / f"{today}-{about['name']}{'-small' if arguments.small else ''}"
    clear(folder)
    write(folder / "machine.json", about)
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    rounds = arguments.rounds or (1 if arguments.small else 5)
    place = Place(work, arguments.bin, logs, arguments.threads, rounds, arguments.small)
    failed = 0
    for at, (name, module) in enumerate(chosen.items(), 1):
        say(f"[{at}/{len(chosen)}] {module.TITLE}")
        result = run(module, place)
        failed += "failed" in result or any(bounded(target) and target["met"] is None for target in result["targets"])
        write(
            folder / f"{name}.json",
            {"schema": SCHEMA, "workload": name, "title": module.TITLE, "small": arguments.small, **result},
        )
    text = report.markdown(folder)
    (folder / "report.md").write_text(text)
    if arguments.page:
        report.include(arguments.page, text)
    print(text)
    say(f"results: {folder}")
    return 1 if failed else 0


def run(module: Any, place: Place) -> dict[str, Any]:
    """A workload's result; where it failed, why."""
    start = time.perf_counter()
    try:
        result: dict[str, Any] = module.run(place)
    except (Failed, OSError, RuntimeError, ValueError, KeyError) as error:
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {error}", "targets": []}
    result["wall_seconds"] = time.perf_counter() - start
    say(f"  {result['wall_seconds']:.0f} s")
    return result


def bounded(target: dict[str, Any]) -> bool:
    return target["least"] is not None or target["most"] is not None


def clear(folder: Path) -> None:
    """Nothing of an older run stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def write(path: Path, content: dict[str, Any]) -> None:
    # Paths of commands are shown from the home folder: results are published.
    path.write_text(json.dumps(content, indent=1).replace(str(Path.home()) + "/", "~/") + "\n")


def parse_arguments() -> argparse.Namespace:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
    parser = argparse.ArgumentParser(prog="harness", description=__doc__)
    parser.add_argument(
        "--bin", type=Path, required=True, help="where the release builds of forebay-bench's programs are"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=home / "bench",
        help="data and caches, on the disk to measure (default: %(default)s)",
    )
    parser.add_argument("--results", type=Path, default=BENCHES / "results", help="default: %(default)s")
    parser.add_argument("--page", type=Path, help="a page to put the tables in, between its markers")
    parser.add_argument("--only", action="append", metavar="WORKLOAD", help="this workload; may be given several times")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="runs of each contender (default: 5, small 1)")
    parser.add_argument("--small", action="store_true", help="a quick pass that shows that everything works")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
