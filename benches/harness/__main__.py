"""`make bench`: runs the workloads, one after the other, and writes what came out.

python -m harness --bin FOLDER [--work FOLDER] [--only NAME ...] [--small | --full] [--resume]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from . import machine, measure, report, results, schema, workloads
from .measure import Failed, say
from .place import Place, clear, free_bytes, locked, may_drop_caches
from .ratios import is_ours

BENCHES = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = parse_arguments()
    # What is finished is kept, and processes that were started end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, measure.Interrupts.arrive)
    known = [module.name for module in pkgutil.iter_modules(workloads.__path__)]
    for name in arguments.only or []:
        if name not in known:
            raise SystemExit(f"there is no workload {name!r}; there are {', '.join(known)}")
    names = arguments.only or known
    chosen = {name: importlib.import_module(f"{workloads.__name__}.{name}") for name in names}
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        return measure_all(arguments, chosen, whole=set(names) == set(known))


def measure_all(arguments: argparse.Namespace, chosen: dict[str, ModuleType], whole: bool) -> int:
    work: Path = arguments.work
    # What an interrupted run left there.
    clear(work / "run")
    check_room(work, list(chosen.values()), arguments.full)
    about = machine.describe(work, arguments.bin)
    warn(about)
    rounds = arguments.rounds or (1 if arguments.small else 9 if arguments.full else 5)
    scale = "small" if arguments.small else "full" if arguments.full else "usual"
    about["run"] = {"scale": scale, "rounds": rounds, "threads": arguments.threads}
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    suffix = {"small": "-small", "full": "-full", "usual": ""}[scale]
    folder = results.begin(
        arguments.results / f"{today}-{about['name']}{suffix}", about, list(chosen), arguments.resume
    )
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    place = Place(
        work=work / "run",
        kept=work,
        bin=arguments.bin,
        logs=logs,
        threads=arguments.threads,
        rounds=rounds,
        small=arguments.small,
        full=arguments.full,
        results=folder,
    )
    for at, (name, module) in enumerate(chosen.items(), 1):
        say(f"[{at}/{len(chosen)}] {module.TITLE}")
        if (folder / f"{name}.json").exists():
            say("  finished before: kept")
            continue
        result = run(module, place)
        if result is not None:
            head = {"workload": name, "title": module.TITLE, "small": arguments.small}
            try:
                results.add(folder, {**head, **result})
            except schema.Invalid as error:
                say(f"  not in the format of results: {error}")
                seconds = result["wall_seconds"]
                results.add(folder, {**head, "failed": str(error), "targets": [], "wall_seconds": seconds})
        if measure.stopped.is_set():
            break
    return finish(folder, arguments.page if whole and not arguments.small else None)


def finish(folder: Path, page: Path | None) -> int:
    """Writes the reports. The exit status tells whether everything was measured."""
    run = results.read(folder)
    text = report.write(folder)
    print(text)
    if page and run.complete:
        report.include(page, text)
    elif page:
        say(f"{page} keeps its figures: this run is not complete")
    say(f"results: {folder}")
    if measure.stopped.is_set():
        say("interrupted; with --resume (make bench BENCH=--resume) the next run keeps the workloads that are finished")
        return 130
    return 1 if any(failed(result) for result in run.workloads) else 0


def run(module: Any, place: Place) -> dict[str, Any] | None:
    """A workload's result; where it failed, why; nothing where it was interrupted before its first figure."""
    start = time.perf_counter()
    try:
        result: dict[str, Any] | None = module.run(place)
    except KeyboardInterrupt:
        measure.stopped.set()
        result = None
    except (Failed, OSError, RuntimeError, ValueError, KeyError) as error:
        result = None
        if not measure.stopped.is_set():
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}", "targets": []}
    try:
        clear(place.work)
    except OSError as error:
        say(f"  {error}")
    seconds = time.perf_counter() - start
    say(f"  {seconds:.0f} s")
    if result is None:
        return None
    if measure.stopped.is_set():
        result["partial"] = "interrupted: fewer runs than planned"
        if not result.get("rows"):
            return None
    return {**result, "rounds": place.rounds, "wall_seconds": seconds}


def failed(result: dict[str, Any]) -> bool:
    """Whether a workload, Forebay in any round of it, or a figure that is promised could not be measured."""
    bounded = [entry for entry in result["targets"] if entry["least"] is not None or entry["most"] is not None]
    ours = [row for row in result.get("rows", []) if is_ours(row["contender"])]
    return "failed" in result or any(row["errors"] for row in ours) or any(entry["met"] is None for entry in bounded)


def check_room(work: Path, modules: list[ModuleType], full: bool) -> None:
    """Ends here where the disk would be full in the middle: workloads run one after the other and remove what they made, except
    what they keep for later runs (KEPT_BYTES)."""
    need = kept = 0
    for module in modules:
        most = getattr(module, "FULL_NEED_BYTES", module.NEED_BYTES) if full else module.NEED_BYTES
        need = max(need, kept + most)
        kept += getattr(module, "KEPT_BYTES", 0)
    free = free_bytes(work)
    if free < need:
        raise SystemExit(
            f"{work} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are needed; name another folder with --work"
        )


def warn(about: dict[str, Any]) -> None:
    """Says what will be missing or worse, before anything is measured."""
    if about["load"][0] > 0.5:
        say(f"the machine is not quiet (load {about['load'][0]:.1f}): figures will be lower, and vary more")
    if not shutil.which("fio"):
        say("fio is not installed (apt-get install fio): its rows are left out")
    if not may_drop_caches():
        say("this user can't drop the page cache, which needs root: rows that are cold are left out")


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
    parser.add_argument("--page", type=Path, help="a page to put the tables of a complete run in, between its markers")
    parser.add_argument("--only", action="append", metavar="WORKLOAD", help="this workload; may be given several times")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="runs of each contender (default: 5, small 1, full 9)")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--small", action="store_true", help="a quick pass that shows that everything works")
    scale.add_argument("--full", action="store_true", help="all cases, and more rounds")
    parser.add_argument(
        "--resume", action="store_true", help="keep the workloads that a run of today finished with the same programs"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
