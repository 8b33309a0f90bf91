"""torchdata.nodes: batches of indexes, each read, decoded and collated in a worker process; decoding by torchvision.io.

As https://pytorch.org/data/0.11/migrate_to_nodes_from_utils.html builds a loader of nodes, which says that worker processes
suit a Python with its lock. The samples are found by their places in the tar shards. Workers end with an epoch, so the sampler
goes through all of them at once; they come from a fork server, as forks of a process that has threads can hang.
"""

from __future__ import annotations

import multiprocessing
import tarfile
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torchdata.nodes as tn
from torch.utils.data import RandomSampler, SequentialSampler

from ..child import Meter, epochs, main
from .transforms import WithTorchvision, collate


class Shards:
    """Samples of tar shards by number."""

    def __init__(self, paths: list[str], image: WithTorchvision) -> None:
        self.image = image
        self.places: list[tuple[str, list[tuple[int, int]]]] = []
        for path in paths:
            with tarfile.open(path) as tar:
                members = [(member.offset_data, member.size) for member in tar]
            self.places += [(path, members[at : at + 2]) for at in range(0, len(members), 2)]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, numbers: list[int]) -> tuple[Any, Any]:
        return collate([self.sample(number) for number in numbers])

    def sample(self, number: int) -> tuple[Any, int]:
        path, members = self.places[number]
        with open(path, "rb", buffering=0) as file:
            data = []
            for offset, size in members:
                file.seek(offset)
                data.append(file.read(size))
        return self.image(data[0]), int(data[1])


def run(settings: dict[str, Any], meter: Meter) -> None:
    check, threads, batch_size = bool(settings.get("check")), settings["threads"], settings["batch_size"]
    multiprocessing.set_forkserver_preload([__package__ + ".transforms"])
    samples = Shards(settings["shards"], WithTorchvision(check))
    # One epoch more than is taken, so that workers are as far ahead at the end as at the beginning.
    everything = len(samples) * (2 + settings["epochs"])
    node = tn.SamplerWrapper(SequentialSampler(samples) if check else RandomSampler(samples, num_samples=everything))
    node = tn.Batcher(node, batch_size=batch_size, drop_last=True)
    node = tn.ParallelMapper(
        node,
        map_fn=samples.batch,
        num_workers=threads,
        method="process",
        multiprocessing_context="forkserver",
        in_order=True,
    )
    stream = iter(tn.Loader(tn.Prefetcher(node, prefetch_factor=2 * threads)))

    def batches() -> Iterator[tuple[Any, Any]]:
        return islice(stream, settings["samples"] // batch_size)

    epochs(settings, meter, batches)


if __name__ == "__main__":
    main(run)
