"""Files of a bucket: a bucket mounted by rclone and its tars read with tarfile, against the same members through Forebay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import SeaweedFS

from ..child import Meter, main
from ..measure import Answer, Contender, Failed, execute, ratio, rows, take_turns, target
from ..place import Place, drop
from .cold_s3 import cpu_seconds

TITLE = "Files of a bucket on loopback S3: Forebay, and the bucket mounted by rclone"
NEED_BYTES = 4 << 30

BUCKET = "photos"


def run(place: Place) -> dict[str, Any]:
    photos = place.photos(place.scaled(8, 2), 500)
    shards = place.copies("mounted-shards", photos, place.scaled(500_000_000, 50_000_000))
    total = sum(shard.stat().st_size for shard in shards)
    log = place.logs / "mounted_bucket.log"
    runs: list[Answer] = []
    commands: dict[str, list[str]] = {}
    with SeaweedFS(place.empty("s3")) as server:
        server.make_bucket(BUCKET)
        for shard in shards:
            server.put(BUCKET, shard.name, shard)
        for case in ("from the bucket", "cached"):
            contenders = [
                forebay(place, server, shards, log, case == "cached"),
                mounted(place, server, shards, log, case == "cached"),
            ]
            commands |= {contender.name: contender.command for contender in contenders}
            runs += take_turns(contenders, place.rounds, case)
    for folder in ("s3", "mounted-shards", "mounted"):
        place.remove(folder)
    table = rows(runs, "GB/s")
    targets = []
    for case in ("from the bucket", "cached"):
        found = ratio(table, "forebay", ["rclone mount"], case)
        targets.append(target(f"GB/s of members over the mounted bucket, {case}", found and found[0]))
    return {
        "unit": "GB/s",
        "conditions": (
            f"{len(shards)} tars of together {total / 1e6:.0f} MB in SeaweedFS on the same machine; {place.threads} threads "
            "bring every JPEG as bytes to Python. From the bucket: nothing is cached yet. Cached: everything was read once "
            "before, by a process of its own, and the page cache has been emptied of it. rclone: --vfs-cache-mode full and "
            "chunks read side by side, as its documentation has it for throughput; tarfile reads the mounted files. "
            "Processor time is the reader's and the mount's."
        ),
        "page_cache": "warm for the server, which has just written its files; emptied of the readers' caches before each run.",
        "settings": {"objects": len(shards), "bytes": total},
        "commands": commands,
        "runs": runs,
        "rows": table,
        "targets": targets,
    }


def reader(how: str, settings: dict[str, Any]) -> list[str]:
    """This file again, as the process that reads."""
    return [sys.executable, "-m", __name__, json.dumps({"how": how, **settings})]


def forebay(place: Place, server: SeaweedFS, shards: list[Path], log: Path, cached: bool) -> Contender:
    folder = place.work / "mounted" / "forebay"
    command = reader(
        "forebay",
        {
            "urls": [f"s3://{BUCKET}/{shard.name}" for shard in shards],
            "storage_options": server.storage_options,
            "cache_dir": str(folder),
            "threads": place.threads,
        },
    )
    first = once(cached, lambda: execute(command, log))

    def go(_: int) -> Answer:
        if not cached:
            shutil.rmtree(folder, ignore_errors=True)
        first()
        forget(folder)
        answer: Answer = execute(command, log)
        return answer

    return Contender("forebay", go, command)


def mounted(place: Place, server: SeaweedFS, shards: list[Path], log: Path, cached: bool) -> Contender:
    home = place.work / "mounted"
    point, cache = home / "bucket", home / "rclone"
    options = {
        "TYPE": "s3", "PROVIDER": "SeaweedFS", "ENDPOINT": server.url, "REGION": server.region,
        "ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "FORCE_PATH_STYLE": "true",
    }  # fmt: skip
    env = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in options.items()}
    mount = [
        place.installed("rclone"), "--config=", "mount", f"bench:{BUCKET}", str(point), "--read-only", f"--cache-dir={cache}",
        "--vfs-cache-mode=full", "--vfs-cache-max-size=20G", "--vfs-read-chunk-size=16M", "--vfs-read-chunk-streams=16",
    ]  # fmt: skip
    files = [str(point / shard.name) for shard in shards]
    command = reader("files", {"files": files, "threads": place.threads})

    def read() -> Answer:
        with bucket(mount, env, point, log) as pid:
            before = cpu_seconds(pid)
            answer: Answer = execute(command, log)
            answer["cpu_seconds"] += cpu_seconds(pid) - before
        return answer

    first = once(cached, read)

    def go(_: int) -> Answer:
        if not cached:
            shutil.rmtree(cache, ignore_errors=True)
        first()
        forget(cache)
        return read()

    return Contender("rclone mount", go, mount)


def once(needed: bool, work: Callable[[], Any]) -> Callable[[], None]:
    """Does this at the first call, where it is needed."""
    left = [work] if needed else []

    def first() -> None:
        if left:
            left.pop()()

    return first


def forget(folder: Path) -> None:
    """Takes a cache out of the page cache."""
    drop([path for path in folder.rglob("*") if path.is_file()])


@contextmanager
def bucket(command: list[str], env: dict[str, str], point: Path, log: Path) -> Iterator[int]:
    """The bucket, mounted; gives the process that serves it."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Failed("/dev/fuse is missing or may not be used: nothing can be mounted here")
    if not shutil.which("fusermount3") and not shutil.which("fusermount"):
        raise Failed("fusermount3 is missing (Debian's package fuse3): nothing can be mounted here")
    point.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env={**os.environ, **env})
    try:
        end = time.monotonic() + 30
        while not point.is_mount():
            if process.poll() is not None or time.monotonic() > end:
                tail = log.read_text(errors="replace").strip().splitlines()[-2:]
                raise Failed(f"rclone did not mount the bucket: {' | '.join(tail)}")
            time.sleep(0.01)
        yield process.pid
    finally:
        # It unmounts when it is asked to end.
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if point.is_mount():
            subprocess.run(["umount", "-l", str(point)], check=False)


def read(settings: dict[str, Any], meter: Meter) -> None:
    how = {"forebay": through_forebay, "files": through_files}[settings["how"]]
    with meter.measure():
        total = how(settings)
    meter.samples = total / 1e9
    meter.extra["bytes"] = total


def through_forebay(settings: dict[str, Any]) -> int:
    import forebay

    with forebay.DataLoader(
        settings["urls"],
        batch_size=64,
        shuffle=False,
        drop_last=False,
        num_threads=settings["threads"],
        fields={"image": forebay.Bytes("jpg")},
        storage_options=settings["storage_options"],
        cache_dir=settings["cache_dir"],
        cache_limit="20GB",
    ) as loader:
        return sum(len(image) for batch in loader for image in batch["image"])


def through_files(settings: dict[str, Any]) -> int:
    def images(path: str) -> int:
        total = 0
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file
                    total += len(file.read())
        return total

    with ThreadPoolExecutor(settings["threads"]) as pool:
        return sum(pool.map(images, settings["files"]))


if __name__ == "__main__":
    main(read)
