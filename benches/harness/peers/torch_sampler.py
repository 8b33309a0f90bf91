"""torch's RandomSampler: what DataLoader(shuffle=True) draws its samples with.

https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.RandomSampler
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time

from ..child import cpu_seconds, status


class Numbers:
    """A dataset as far as a sampler looks at it."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples


def main() -> None:
    settings = json.loads(sys.argv[1])
    import torch
    from torch.utils.data import RandomSampler

    torch.manual_seed(0)
    before, cpu, start = status("VmHWM"), cpu_seconds(), time.perf_counter()
    batch = list(itertools.islice(RandomSampler(Numbers(settings["samples"])), settings["batch_size"]))
    seconds = time.perf_counter() - start
    answer = {
        "value": seconds * 1e3,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - cpu,
        "peak_rss_bytes": status("VmHWM"),
        "grown_bytes": status("VmHWM") - before,
        "samples": len(batch),
    }
    print(json.dumps(answer), flush=True)
    os._exit(0)


main()
