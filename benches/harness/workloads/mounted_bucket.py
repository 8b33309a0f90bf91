"""Files of a bucket: a bucket mounted by rclone and its tars read with tarfile, against the same members through Forebay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from servers import SeaweedFS

from .. import s3
from ..child import members
from ..measure import (
    Answer,
    Contender,
    Failed,
    LeftOut,
    execute,
    last_lines,
    ratio,
    rows,
    running,
    sections,
    take_turns,
    target,
)
from ..place import Place, drop

TITLE = "Files of a bucket on loopback S3: Forebay, and the bucket mounted by rclone"
NEED_BYTES = 4 << 30

CASES = ("from the bucket", "cached")


def run(place: Place) -> dict[str, Any]:
    photos = place.photos(place.scaled(8, 2))
    shards = place.copies("mounted-shards", photos, place.scaled(500_000_000, 50_000_000))
    total = sum(shard.stat().st_size for shard in shards)
    images = sum(len(jpeg) for shard in map(str, shards) for (jpeg,) in members([shard], "jpg"))
    log = place.logs / "mounted_bucket.log"
    commands: dict[str, list[str]] = {}

    def turns(case: str, server: SeaweedFS) -> list[Answer]:
        contenders = [
            forebay(place, server, shards, log, case == "cached"),
            mounted(place, server, shards, log, case == "cached"),
        ]
        contenders = [whole(contender, images) for contender in contenders]
        commands.update({contender.name: contender.command for contender in contenders})
        return take_turns(contenders, place.few, case)

    with s3.serving(place, shards) as server:
        runs = sections({case: partial(turns, case, server) for case in CASES})
    for folder in ("mounted-shards", "mounted"):
        place.remove(folder)
    table = rows(runs, "GB/s")
    targets = []
    for case in CASES:
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


def forebay(place: Place, server: SeaweedFS, shards: list[Path], log: Path, cached: bool) -> Contender:
    folder = place.work / "mounted" / "forebay"
    settings = {
        "urls": list(map(s3.url, shards)),
        "storage_options": server.storage_options,
        "cache_dir": str(folder),
        "threads": place.threads,
    }
    command = [*place.peer("forebay_bytes"), json.dumps(settings)]
    first = once(cached, lambda: execute(command, log))

    def go(_: int) -> Answer:
        if not cached:
            shutil.rmtree(folder, ignore_errors=True)
        first()
        forget(folder)
        return execute(command, log)

    return Contender("forebay", go, command)


def mounted(place: Place, server: SeaweedFS, shards: list[Path], log: Path, cached: bool) -> Contender:
    home = place.work / "mounted"
    point, cache = home / "bucket", home / "rclone"
    mount = [
        "rclone", "--config=", "mount", f"bench:{s3.BUCKET}", str(point), "--read-only", f"--cache-dir={cache}",
        "--vfs-cache-mode=full", "--vfs-cache-max-size=20G", "--vfs-read-chunk-size=16M", "--vfs-read-chunk-streams=16",
    ]  # fmt: skip
    settings = {"files": [str(point / shard.name) for shard in shards], "threads": place.threads}
    command = [*place.peer("tar_files"), json.dumps(settings)]

    def read() -> Answer:
        with bucket([place.installed(mount[0]), *mount[1:]], s3.remote(server), point, log) as pid:
            before = s3.cpu_seconds(pid)
            answer = execute(command, log)
            answer["cpu_seconds"] += s3.cpu_seconds(pid) - before
        return answer

    first = once(cached, read)

    def go(_: int) -> Answer:
        if not cached:
            shutil.rmtree(cache, ignore_errors=True)
        first()
        forget(cache)
        return read()

    return Contender("rclone mount", go, mount)


def whole(contender: Contender, images: int) -> Contender:
    """The contender, which has to bring all bytes of the JPEGs."""
    go = contender.go

    def run(round_: int) -> Answer:
        answer = go(round_)
        if answer["bytes"] != images:
            raise ValueError(f"it brought {answer['bytes']} bytes of JPEGs; the bucket has {images}")
        return answer

    contender.go = run
    return contender


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
        raise LeftOut("/dev/fuse is missing or may not be used: nothing can be mounted here")
    if not shutil.which("fusermount3") and not shutil.which("fusermount"):
        raise LeftOut("fusermount3 is missing (Debian's package fuse3): nothing can be mounted here")
    point.mkdir(parents=True, exist_ok=True)
    try:
        with running(command, log, env) as process:
            end = time.monotonic() + 30
            while not point.is_mount():
                if process.poll() is not None or time.monotonic() > end:
                    raise Failed(f"rclone did not mount the bucket: {last_lines(log)}")
                time.sleep(0.01)
            try:
                yield process.pid
            finally:
                # It unmounts when it is asked to end.
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    pass
    finally:
        if point.is_mount():
            subprocess.run(["umount", "-l", str(point)], check=False)
