"""Forebay in several processes that share a cache folder, a rank each, as a launcher of training starts them.

Each has its part of the machine's decoding threads. All wait for each other before an epoch, which lasts until the last of them
has its batches.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import forebay

from ..child import Meter, clocks, main, phases, resident
from .forebay_training import only_from, training


def rank(number: int, settings: dict[str, Any], link: Connection) -> None:
    """A rank's process: an epoch for each word that comes, until the other end is closed."""
    os.environ |= {
        "RANK": str(number),
        "WORLD_SIZE": str(settings["ranks"]),
        "LOCAL_WORLD_SIZE": str(settings["ranks"]),
    }
    loader: forebay.DataLoader | None = None
    link.send(0)
    epochs = 0
    try:
        while link.recv():
            loader = loader or training(settings)
            before, samples = loader.stats(), 0
            for batch in loader:
                samples += len(memoryview(batch["image"]))
                del batch
            if "tier" in settings and epochs:
                only_from(settings["tier"], loader.stats().since(before))
            epochs += 1
            link.send(samples)
    except EOFError:
        if loader:
            loader.close()


def run(settings: dict[str, Any], meter: Meter) -> None:
    share = {**settings, "threads": max(1, settings["threads"] // settings["ranks"])}
    context = multiprocessing.get_context("spawn")
    ranks, links = [], []
    for number in range(settings["ranks"]):
        ours, theirs = context.Pipe()
        ranks.append(context.Process(target=rank, args=(number, share, theirs), daemon=True))
        ranks[-1].start()
        theirs.close()
        links.append(ours)
    hear(links, ranks)
    # Only now all imports are done.
    meter.born = clocks()
    for phase in phases(settings, meter):
        with phase:
            for link in links:
                link.send(True)
            samples = hear(links, ranks)
            meter.count(samples)
        if samples != settings["samples"]:
            raise SystemExit(f"{settings['ranks']} ranks had {samples} samples of {settings['samples']}")
    meter.extra |= resident([process.pid for process in ranks if process.pid])
    for link in links:
        link.close()
    for process in ranks:
        process.join()


def hear(links: list[Connection], ranks: list[SpawnProcess]) -> int:
    """What all of them say, together; the end of all where one has ended."""
    try:
        return sum(link.recv() for link in links)
    except EOFError as error:
        # Else another one's words may come behind these.
        for process in ranks:
            process.terminate()
            process.join()
        raise SystemExit("a rank has ended; what it said is above") from error


if __name__ == "__main__":
    main(run)
