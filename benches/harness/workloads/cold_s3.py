"""Cold shards from an S3 server on loopback to disk, each way ended by syncfs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from servers import SeaweedFS

from ..measure import Answer, Contender, execute, ratio, rows, take_turns, target
from ..place import Place
from ..syncfs import syncfs

TITLE = "Cold S3 on loopback into the cache, against plain downloads to files (all ended by syncfs)"
NEED_BYTES = 5 << 30

BUCKET = "photos"


def run(place: Place) -> dict[str, Any]:
    photos = place.photos(place.scaled(8, 2), 500)
    shards = place.copies("cold-shards", photos, place.scaled(1_000_000_000, 100_000_000))
    total = sum(shard.stat().st_size for shard in shards)
    log = place.logs / "cold_s3.log"
    with SeaweedFS(place.empty("s3")) as server:
        server.make_bucket(BUCKET)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda shard: server.put(BUCKET, shard.name, shard), shards))
        contenders = [
            forebay(place, server, shards, total, log),
            rclone(place, server, total, log),
            obstore(place, server, shards, log),
        ]
        for contender in contenders:
            contender.go = whole(place, contender.go, total, server.pid)
        runs = take_turns(contenders, place.rounds)
    for folder in ("s3", "cold-shards", "cold"):
        place.remove(folder)
    table = rows(runs, "GB/s")
    best = ratio(table, "forebay prefetch", ["rclone copy", "obstore"])
    return {
        "unit": "GB/s",
        "conditions": (
            f"{len(shards)} objects of together {total / 1e9:.2f} GB in SeaweedFS on the same disk and the same processors. "
            "forebay and rclone: the whole process, start included; "
            "obstore: without Python's start and imports. The server's processor time is in the runs (server_cpu_seconds)."
        ),
        "page_cache": "warm for the server, which has just written its files; each run begins with an empty folder and a syncfs.",
        "settings": {"objects": len(shards), "bytes": total},
        "commands": {contender.name: contender.command for contender in contenders},
        "runs": runs,
        "rows": table,
        "targets": [
            target(
                f"GB/s over the faster plain download{f' ({best[1]})' if best else ''}", best and best[0], least=0.95
            )
        ],
    }


def whole(place: Place, go: Callable[[int], Answer], total: int, server: int) -> Callable[[int], Answer]:
    """A run into an empty folder, with what it cost the server."""

    def run(round_: int) -> Answer:
        folder = place.empty("cold")
        syncfs(folder)
        before = cpu_seconds(server)
        answer = go(round_)
        answer["server_cpu_seconds"] = cpu_seconds(server) - before
        kept = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        if kept < total:
            raise ValueError(f"{kept} bytes of {total} are on disk")
        return answer

    return run


def timed(command: list[str], log: Path, folder: Path, total: int, env: dict[str, str] | None = None) -> Answer:
    """A process and the syncfs behind it."""
    start = time.perf_counter()
    answer = execute(command, log, env)
    syncfs(folder)
    seconds = time.perf_counter() - start
    process = answer.pop("process")
    return {
        "value": total / 1e9 / seconds,
        "seconds": seconds,
        "cpu_seconds": process["cpu_seconds"],
        "peak_rss_bytes": process["peak_rss_bytes"],
    }


def forebay(place: Place, server: SeaweedFS, shards: list[Path], total: int, log: Path) -> Contender:
    folder = place.work / "cold"
    options = [f"--storage-option={name}={value}" for name, value in server.storage_options.items()]
    urls = [f"s3://{BUCKET}/{shard.name}" for shard in shards]
    command = [
        place.program("forebay"), "prefetch", "--json", "--cache-limit=20GB", f"--cache-dir={folder / 'cache'}", *options, *urls,
    ]  # fmt: skip
    return Contender("forebay prefetch", lambda _: timed(command, log, folder, total), command)


def rclone(place: Place, server: SeaweedFS, total: int, log: Path) -> Contender:
    folder = place.work / "cold"
    options = {
        "TYPE": "s3", "PROVIDER": "SeaweedFS", "ENDPOINT": server.url, "REGION": server.region,
        "ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "FORCE_PATH_STYLE": "true",
    }  # fmt: skip
    env = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in options.items()}
    command = [
        place.installed("rclone"), "--config=", "copy", f"bench:{BUCKET}", str(folder), "--transfers=16", "--checkers=16",
        "--no-check-dest", "--fast-list",
    ]  # fmt: skip

    return Contender("rclone copy", lambda _: timed(command, log, folder, total, env), command)


def obstore(place: Place, server: SeaweedFS, shards: list[Path], log: Path) -> Contender:
    settings = {
        "endpoint": server.url,
        "bucket": BUCKET,
        "keys": [shard.name for shard in shards],
        "folder": str(place.work / "cold"),
    }
    command = [*place.peer("obstore_files"), json.dumps(settings)]
    return Contender("obstore", lambda _: execute(command, log), command)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
