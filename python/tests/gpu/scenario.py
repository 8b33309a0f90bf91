"""A consumer whose every step leans on one promise of the loader: run in a process of its own, by `test_mutants.py`.

It never waits for its own work before the end: what keeps its bytes from being overwritten is the loader alone.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import forebay
from consumer import Consumer, Taken
from simulator import Simulator


def run(seed: int, cache: str, urls: list[str]) -> None:
    machine = Simulator()
    # A batch of 98 kB takes 10 ms: it is on its way when the consumer gets it, and its slot on the host is wanted before.
    machine.begin(f"seed={seed} bus_gbps=0.01")
    with Consumer() as consumer:
        loader = forebay.DataLoader(
            urls,
            batch_size=8,
            fields={"image": forebay.Image("jpg", transform=[forebay.Resize((64, 64))])},
            cache_dir=cache,
            cache_limit="1GB",
            host_memory_limit="256MB",
            num_threads=2,
            device="cuda",
            # Every piece of device memory is used again within an epoch.
            gpu_memory_limit=2 << 20,
        )
        for _ in range(4):
            epoch(machine, consumer, loader)
        running = iter(loader)
        stream = consumer.stream()
        last = Taken(next(running)["image"].__dlpack__(stream=stream))
        consumer.fill(last.address, last.bytes, stream)
        last.release()
        del running
        gc.collect()
        loader.close()
        come_and_go(cache, urls)
        decode(cache, urls)
        consumer.wait_for_all()
    machine.check()


def come_and_go(cache: str, urls: list[str]) -> None:
    """Decoded samples on the device, of a rank whose samples change: places are taken again while kernels read."""
    loader = forebay.DataLoader(
        urls,
        batch_size=4,
        fields={"image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(64)])},
        shuffle=True,
        rank=0,
        world_size=2,
        cache_dir=cache,
        cache_limit="1GB",
        host_memory_limit="256MB",
        num_threads=2,
        device="cuda",
        gpu_decoded_limit=100_000,
        decoded_max_side=64,
    )
    for _ in range(6):
        for _ in loader:
            pass
    loader.close()


def decode(cache: str, urls: list[str]) -> None:
    """Images decoded on the device, in groups over one piece of memory, converted behind."""
    normal = [forebay.RandomResizedCrop(64), forebay.Normalize(mean=(0.5,) * 3, std=(0.2,) * 3)]
    loader = forebay.DataLoader(
        urls,
        batch_size=4,
        fields={"image": forebay.Image("jpg", transform=normal)},
        cache_dir=cache,
        cache_limit="1GB",
        host_memory_limit="256MB",
        num_threads=2,
        device="cuda",
        decode_on="gpu",
    )
    for _ in range(2):
        for _ in loader:
            pass
    loader.close()


def epoch(machine: Simulator, consumer: Consumer, loader: Any) -> None:
    streams = [consumer.stream(), consumer.stream()]
    captured = consumer.stream()
    for batch in loader:
        with machine.borrowed():
            exports = [Taken(batch["image"].__dlpack__(stream=stream)) for stream in streams]
        half = exports[0].bytes // 2
        for at, stream in enumerate(streams):
            consumer.fill(exports[0].address + at * half, half, stream)
        if batch.index == 3:
            consumer.capture(captured, 2)
            try:
                batch["image"].__dlpack__(stream=captured)
            except BufferError:
                pass
            consumer.end_capture(captured)
        del batch
        for taken in exports:
            # What the capsule has let go of already would end the process here, before anything is found.
            if os.environ.get("FOREBAY_MUTANT") != "capsule-early":
                taken.release()


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
