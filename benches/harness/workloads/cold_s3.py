"""Cold shards from an S3 server on loopback to disk, each way ended by syncfs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servers import SeaweedFS

from .. import s3
from ..measure import Contender, ratio, rows, take_turns, target
from ..place import Place

TITLE = "Cold S3 on loopback into the cache, against plain downloads to files (all ended by syncfs)"
NEED_BYTES = 5 << 30


def run(place: Place) -> dict[str, Any]:
    photos = place.photos(place.scaled(8, 2))
    shards = place.copies("cold-shards", photos, place.scaled(600_000_000, 100_000_000, full=1_000_000_000))
    total = sum(shard.stat().st_size for shard in shards)
    folder, log = place.work / "cold", place.logs / "cold_s3.log"
    with s3.serving(place, shards) as server:
        contenders = [
            s3.into_empty(folder, forebay(place, server, shards, folder, log), total, server),
            *s3.downloads(place, server, shards, folder, log),
        ]
        runs = take_turns(contenders, place.rounds)
    for name in ("cold-shards", "cold"):
        place.remove(name)
    table = rows(runs, "GB/s")
    best = ratio(table, "forebay prefetch", s3.DOWNLOADS)
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


def forebay(place: Place, server: SeaweedFS, shards: list[Path], folder: Path, log: Path) -> Contender:
    total = sum(shard.stat().st_size for shard in shards)
    options = [f"--storage-option={name}={value}" for name, value in server.storage_options.items()]
    command = [
        place.program("forebay"), "prefetch", "--json", "--cache-limit=20GB", f"--cache-dir={folder / 'cache'}", *options,
        *map(s3.url, shards),
    ]  # fmt: skip
    return Contender("forebay prefetch", lambda _: s3.timed(command, log, folder, total), command)
