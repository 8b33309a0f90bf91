"""A consumer that does what comes to its mind: exports, works and lets go at any point, in an order that a seed decides."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import forebay
import numpy as np
from consumer import Consumer, Taken

FIELDS = {
    "image": forebay.Image("jpg", transform=[forebay.Resize((48, 48))]),
    "cast": forebay.Image("jpg", transform=[forebay.Resize((32, 32)), forebay.Cast("float16"), forebay.Layout("NCHW")]),
    "label": forebay.Int("cls"),
    "feature": forebay.Numpy("npy"),
}


class IntoConsumers(forebay.DataLoader):
    """A loader whose arrays are finished in the consumer's memory."""

    _into_consumers = True


class Soak:
    """One seed's consumer and its loader."""

    def __init__(self, seed: int, consumer: Consumer, right: list[dict[str, bytes]]) -> None:
        self.rng = random.Random(seed)
        self.consumer = consumer
        self.right = right
        self.streams = [consumer.stream(blocking=self.rng.random() < 0.3) for _ in range(3)]
        self.taken: list[Taken] = []
        self.batches: list[Any] = []
        self.read: list[tuple[int, bytes]] = []
        self.own: list[int] = []

    def run(self, open_loader: Callable[[type[forebay.DataLoader]], Any]) -> None:
        """One epoch, left early or not; everything that was read is right in the end."""
        into_consumers = self.rng.random() < 0.3
        loader = open_loader(IntoConsumers if into_consumers else forebay.DataLoader)
        leaves = self.rng.choice([None, None, self.rng.randrange(8)])
        for batch in loader:
            for name in batch:
                if into_consumers:
                    self.write(batch, name)
                else:
                    self.use(batch, name)
            self.batches.append(batch)
            self.let_go(most=2)
            if batch.index == leaves:
                break
        del batch
        if self.rng.random() < 0.5:
            loader.close()
        self.let_go(most=0)
        loader.close()
        self.consumer.wait_for_all()
        for at, theirs in self.read:
            assert ctypes.string_at(at, len(theirs)) == theirs
            self.consumer.forget(at)
        for address in self.own:
            self.consumer.call("cuMemFree_v2", address)
        for stream in self.streams:
            self.consumer.destroy(stream)

    def use(self, batch: Any, name: str) -> None:
        """Hands one column to some streams."""
        array, theirs = batch[name], self.right[batch.index][name]
        for _ in range(self.rng.choice([0, 1, 1, 2])):
            handle = self.rng.choice([*self.streams, *self.streams, None, 1, -1])
            stream = {None: 1, -1: self.streams[0]}.get(handle, handle)
            version = self.rng.choice([None, (1, 0)])
            taken = Taken(array.__dlpack__(stream=handle, max_version=version))
            if handle == -1:
                self.consumer.wait_for_all()
            for _ in range(self.rng.randrange(3)):
                self.read.append((self.consumer.copy_out(taken.address, taken.bytes, stream), theirs))
            self.taken.append(taken)
            if self.rng.random() < 0.3:
                self.release(taken)
        if self.rng.random() < 0.2:
            side = self.rng.choice(self.streams)
            Taken(array.__dlpack__(stream=side)).release()
            array.record_stream(side)
            address = array.__cuda_array_interface__["data"][0] if self.rng.random() < 0.3 else None
            if address is not None:
                self.read.append((self.consumer.copy_out(address, len(theirs), 1), theirs))
        if self.rng.random() < 0.1:
            assert np.ascontiguousarray(np.from_dlpack(array, device="cpu")).tobytes() == theirs

    def write(self, batch: Any, name: str) -> None:
        """Takes one column into memory of its own."""
        stream, to = self.rng.choice(self.streams), ctypes.c_uint64()
        size = batch[name].nbytes
        self.consumer.call("cuMemAlloc_v2", ctypes.byref(to), size)
        self.own.append(to.value)
        batch[name]._write_to(to.value, stream)
        self.read.append((self.consumer.copy_out(to.value, size, stream), self.right[batch.index][name]))

    def let_go(self, most: int) -> None:
        """Drops batches and exports until few are left, and some by the way."""
        while len(self.batches) > most:
            self.batches.pop(self.rng.randrange(len(self.batches)))
        while len(self.taken) > most * 4:
            self.release(self.rng.choice(self.taken))
        if self.rng.random() < 0.3:
            gc.collect()

    def release(self, taken: Taken) -> None:
        """Lets go of an export: here, or on another thread."""
        self.taken.remove(taken)
        if self.rng.random() < 0.7:
            taken.release(with_gil=self.rng.random() < 0.5)
            return
        thread = threading.Thread(target=taken.release)
        thread.start()
        thread.join()
