"""An S3 server of the run's own on loopback, and plain downloads from it to files."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from servers import SeaweedFS

from .measure import Answer, Contender, LeftOut, execute
from .place import Place, clear
from .syncfs import syncfs

BUCKET = "data"
DOWNLOADS = ["rclone copy", "obstore"]


@contextmanager
def serving(place: Place, files: Iterable[Path]) -> Iterator[SeaweedFS]:
    """A server with these files in BUCKET, on the disk that is measured and on the same processors."""
    with SeaweedFS(place.empty("s3")) as server:
        server.make_bucket(BUCKET)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda file: server.put(BUCKET, file.name, file), files))
        yield server
    place.remove("s3")


def curl() -> None:
    """Raises LeftOut where WebDataset has nothing to read from servers with."""
    if not shutil.which("curl"):
        raise LeftOut("curl is not installed, by which WebDataset reads from servers")


def url(file: Path) -> str:
    return f"s3://{BUCKET}/{file.name}"


def indexed(place: Place, shards: list[Path], log: Path) -> list[Path]:
    """The shards and, beside them, sidecars that say where their samples lie: made once, and uploaded with the shards."""
    command = [place.program("forebay"), "index", "--write-sidecars", f"--cache-dir={place.empty('sidecars')}"]
    execute([*command, *map(str, shards)], log)
    place.remove("sidecars")
    return [*shards, *(shard.with_suffix(".idx") for shard in shards)]


def remote(server: SeaweedFS) -> dict[str, str]:
    """rclone's settings, in its environment, of a remote called "bench"."""
    options = {
        "TYPE": "s3", "PROVIDER": "SeaweedFS", "ENDPOINT": server.url, "REGION": server.region,
        "ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "FORCE_PATH_STYLE": "true",
    }  # fmt: skip
    return {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in options.items()}


def downloads(place: Place, server: SeaweedFS, files: list[Path], folder: Path, log: Path) -> list[Contender]:
    """These objects to files in `folder`, by rclone and by obstore, each ended by syncfs."""
    total = sum(file.stat().st_size for file in files)
    env = remote(server)
    copy = [
        "rclone", "--config=", "copy", f"bench:{BUCKET}", str(folder), f"--include=*{files[0].suffix}", "--transfers=16",
        "--checkers=16", "--no-check-dest", "--fast-list",
    ]  # fmt: skip
    settings = {
        "endpoint": server.url,
        "bucket": BUCKET,
        "keys": [file.name for file in files],
        "folder": str(folder),
    }
    ranges = [*place.peer("obstore_files"), json.dumps(settings)]

    def rclone(_: int) -> Answer:
        return timed([place.installed(copy[0]), *copy[1:]], log, folder, total, env)

    return [
        into_empty(folder, Contender(DOWNLOADS[0], rclone, copy), total, server),
        into_empty(folder, Contender(DOWNLOADS[1], lambda _: execute(ranges, log), ranges), total, server),
    ]


def into_empty(folder: Path, contender: Contender, total: int, server: SeaweedFS) -> Contender:
    """The contender, with an empty folder to begin with, what it cost the server, and all bytes on disk at the end."""
    go: Callable[[int], Answer] = contender.go

    def run(round_: int) -> Answer:
        clear(folder)
        syncfs(folder)
        before = cpu_seconds(server.pid)
        answer = go(round_)
        answer["server_cpu_seconds"] = cpu_seconds(server.pid) - before
        kept = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        if kept < total:
            raise ValueError(f"{kept} bytes of {total} are on disk")
        return answer

    contender.go = run
    return contender


def timed(command: list[str], log: Path, folder: Path, total: int, env: dict[str, str] | None = None) -> Answer:
    """A process and the syncfs behind it."""
    start = time.perf_counter()
    process = execute(command, log, env)["process"]
    syncfs(folder)
    seconds = time.perf_counter() - start
    return {
        "value": total / 1e9 / seconds,
        "seconds": seconds,
        "cpu_seconds": process["cpu_seconds"],
        "peak_rss_bytes": process["peak_rss_bytes"],
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
