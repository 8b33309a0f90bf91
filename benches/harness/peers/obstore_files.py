"""obstore to files: objects side by side, each in ranges side by side, written where they belong."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from obstore.store import S3Store

from ..child import Meter, main
from ..syncfs import syncfs

# As many requests at once, and as long, as Forebay's.
RANGE_BYTES = 16 << 20
REQUESTS = 16


def run(settings: dict[str, Any], meter: Meter) -> None:
    with meter.measure():
        total = asyncio.run(download(settings))
        syncfs(settings["folder"])
    meter.samples = total / 1e9
    meter.extra["bytes"] = total


async def download(settings: dict[str, Any]) -> int:
    store = S3Store(
        settings["bucket"],
        endpoint=settings["endpoint"],
        region="us-east-1",
        access_key_id="any",
        secret_access_key="any",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    turns = asyncio.Semaphore(REQUESTS)

    async def part(key: str, file: int, start: int, end: int) -> None:
        async with turns:
            data = await store.get_range_async(key, start=start, end=end)
            await asyncio.to_thread(os.pwrite, file, data, start)

    async def whole(key: str) -> int:
        size: int = (await store.head_async(key))["size"]
        file = os.open(os.path.join(settings["folder"], key), os.O_WRONLY | os.O_CREAT, 0o600)
        starts = range(0, size, RANGE_BYTES)
        await asyncio.gather(*(part(key, file, start, min(start + RANGE_BYTES, size)) for start in starts))
        os.close(file)
        return size

    return sum(await asyncio.gather(*(whole(key) for key in settings["keys"])))


if __name__ == "__main__":
    main(run)
