"""`make profile`: a flame graph of JPEG training from NVMe, into today's folder of results.

python -m harness.profile [--work FOLDER] [--results FOLDER]

Taken with perf from the same package and settings as the workload, without a peer beside it. The folder's report links to it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import flame, machine, report, results
from .measure import Failed, execute, say
from .place import Place, clear, free_bytes, locked
from .workloads.jpeg_training import BATCH

WORKLOAD = "jpeg_training"
NEED_BYTES = 2 << 30
# Enough for a per cent, in some seconds; not a divisor of a timer's frequency.
EPOCHS, HERTZ = 3, 299
# A virtual machine may have no counters of the processor: this clock is the kernel's own.
EVENT = "cpu-clock"


def main() -> int:
    arguments = parse_arguments()
    check_perf()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if free_bytes(work) < NEED_BYTES:
        raise SystemExit(f"{work} has {free_bytes(work) / 1e9:.1f} GB free, and {NEED_BYTES / 1e9:.1f} GB are needed")
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    folder: Path = arguments.results / f"{today}-{machine.name()}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(work):
        clear(work / "run")
        (work / "logs").mkdir(exist_ok=True)
        place = Place(work / "run", work, Path(), work / "logs", arguments.threads, 1, small=False)
        try:
            picture = profile(place)
        finally:
            clear(work / "run")
    (folder / f"{WORKLOAD}.flame.svg").write_text(picture)
    if (folder / results.MACHINE).exists():
        report.write(folder)
    say(f"flame graph: {folder / f'{WORKLOAD}.flame.svg'}")
    return 0


def profile(place: Place) -> str:
    shards = place.photos(8)
    settings = {
        "shards": [str(shard) for shard in shards],
        "batch_size": BATCH,
        "threads": place.threads,
        "epochs": EPOCHS,
        "cache_dir": str(place.empty("profile-cache")),
        "host_memory_limit": "2GB",
    }
    log = place.logs / "profile.log"
    peer = place.peer("forebay_jpeg")
    # As in the workload: a process of its own brings the shards to NVMe.
    execute([*peer, json.dumps({**settings, "cold": True})], log)
    data = place.empty("profile") / "perf.data"
    command = [*peer, json.dumps({**settings, "tier": "nvme"})]
    # Release builds keep no frame pointers: stacks are unwound from what was on them.
    record = [
        "perf",
        "record",
        f"--event={EVENT}",
        f"--freq={HERTZ}",
        "--call-graph=dwarf,16384",
        f"--output={data}",
        "--",
    ]
    answer = execute([*record, *command], log)
    script = ["perf", "script", f"--input={data}", "--no-inline", "--fields=comm,tid,ip,sym,dso"]
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        assert process.stdout
        root = flame.fold(process.stdout)
    if process.returncode or not root.samples:
        raise Failed(f"perf script ended with {process.returncode}, and {root.samples} samples")
    title = (
        f"JPEG training from NVMe, {place.threads} threads, {answer['value']:.0f} images/s while profiled; "
        f"{root.samples} samples; commit {machine.commit()}"
    )
    return flame.svg(root, title)


def check_perf() -> None:
    """Ends here where perf is not there or not allowed."""
    if not shutil.which("perf"):
        raise SystemExit("perf is not installed: apt-get install linux-perf")
    tried = subprocess.run(
        ["perf", "record", f"--event={EVENT}", "--output=/dev/null", "--", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        said = tried.stderr.strip().splitlines()
        raise SystemExit(
            f"perf may not record: {said[0] if said else 'it says nothing'}; it needs root, or a lower "
            "kernel.perf_event_paranoid"
        )


def parse_arguments() -> argparse.Namespace:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
    parser = argparse.ArgumentParser(prog="harness.profile", description=__doc__)
    parser.add_argument("--work", type=Path, default=home / "bench", help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=machine.BENCHES / "results", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="that decode (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
