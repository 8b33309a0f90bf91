"""As `scenario.py`, a consumer of weights: of leases whose memory is handed out again, and of its own memory that is filled."""

from __future__ import annotations

import ctypes
import os
import sys

from consumer import Consumer, Taken
from forebay import weights
from simulator import Simulator


def run(seed: int, url: str) -> None:
    machine = Simulator()
    # 18 MB take 180 ms: slots on the host are wanted again, and tensors given, while the bus is behind.
    machine.begin(f"seed={seed} bus_gbps=0.1")
    with Consumer() as consumer:
        with weights.open(url, host_memory_limit="32MB") as opened:
            for _ in range(2):
                leases(machine, consumer, opened)
            own(consumer, opened)
        consumer.wait_for_all()
    machine.check()


def leases(machine: Simulator, consumer: Consumer, opened: weights.Weights) -> None:
    streams = [consumer.stream(), consumer.stream()]
    # Also the first call for the device, which a bug may leave otherwise than it was.
    with machine.borrowed():
        tensors = iter(opened.stream(framework="dlpack", device="cuda", owned=False, gpu_memory_limit="14MB"))
    while True:
        with machine.borrowed():
            _, array = next(tensors, (None, None))
            if array is None:
                return
            exports = [Taken(array.__dlpack__(stream=stream)) for stream in streams]
        half = exports[0].bytes // 2
        for at, stream in enumerate(streams):
            consumer.fill(exports[0].address + at * half, half, stream)
        del array
        for taken in exports:
            # What the capsule has let go of already would end the process here, before anything is found.
            if os.environ.get("FOREBAY_MUTANT") != "capsule-early":
                taken.release()


def own(consumer: Consumer, opened: weights.Weights) -> None:
    """As torch's tensors are filled: on the consumer's stream, which nobody waits for."""
    loading = opened._core.load_onto(
        [(number, None) for number in range(len(opened))], device="cuda:0", local_rank=None, budget=None
    )
    stream = consumer.stream()
    while (coming := loading.next()) is not None:
        nbytes, _ = coming
        memory = ctypes.c_uint64()
        consumer.call("cuMemAllocAsync", ctypes.byref(memory), nbytes, stream)
        loading.fill(memory.value, stream)
        consumer.fill(memory.value, nbytes, stream)
        consumer.call("cuMemFreeAsync", memory.value, stream)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2])
