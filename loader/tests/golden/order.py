"""Writes order.json, the golden vectors of the order, from its reference implementation.

    pip install blake3
    python order.py PATH/TO/order_reference.py > order.json

A sample is written as its number in storage order. `digest` is blake3 over all of an epoch's, or of a permutation's images,
each as 8 bytes little-endian; `probes` are single positions. `runs` are counts of shards as [count, how many times].
"""

import importlib.util
import json
import sys
from itertools import accumulate

from blake3 import blake3

RANKS = [1, 2, 3, 6, 8, 16, 64]
WINDOWS = [1, 48, 500, 131_072]
MODES = ["shuffle", "sticky", "global"]
SHAPES = [
    [[40, 50]],  # even shards
    [[5, 1], [7, 1], [0, 1], [300, 1], [0, 2], [1, 9], [333, 3]],  # empty and uneven shards
    [[1, 1], [0, 1], [2, 3]],  # fewer samples than lanes
    [[700, 2], [0, 1], [301, 1]],  # fewer shards than lanes
    [[1500, 1]],  # one shard
]
VAST = [[10_000, 100_000]]  # 10^9 samples


def load(path):
    spec = importlib.util.spec_from_file_location("order_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(numbers):
    return blake3(b"".join(n.to_bytes(8, "little") for n in numbers)).hexdigest()[:32]


def perms(reference):
    for n in [1, 2, 3, 7, 8, 9, 255, 256, 257, 258, 1023, 1024, 1025, 4097]:
        for key in [0, 1, (1 << 64) - 1, 0x0123_4567_89AB_CDEF]:
            perm = reference.perm(n, key)
            yield {"n": n, "key": key, "digest": digest(perm(x) for x in range(n))}


def case(reference, runs, seed, epoch, ranks, window, mode, probes=None):
    counts = [count for count, times in runs for _ in range(times)]
    order = reference.Order(counts, seed, epoch, ranks, window, mode)
    before = [0, *accumulate(counts)]

    def number(p):
        shard, index = order.sample(p)
        return before[shard] + index

    out = {"runs": runs, "seed": seed, "epoch": epoch, "canonical_ranks": ranks, "shuffle_window": window, "mode": mode}
    if probes is None:
        numbers = [number(p) for p in range(order.total)]
        return {**out, "digest": digest(numbers), "probes": [[p, numbers[p]] for p in range(min(4, order.total))]}
    return {**out, "digest": None, "probes": [[p, number(p)] for p in probes]}


def orders(reference):
    step = 0
    for mode in MODES:
        for ranks in RANKS:
            for window in WINDOWS:
                seed, epoch = (step * 0x9E37_79B9_7F4A_7C15) % (1 << 64), step % 4
                yield case(reference, SHAPES[step % len(SHAPES)], seed, epoch, ranks, window, mode)
                step += 1
        total = VAST[0][0] * VAST[0][1]
        probes = [
            0,
            1,
            47,
            48,
            131_071,
            131_072,
            total // 2,
            total - 2,
            total - 1,
            *(k * 40_000_003 for k in range(1, 24)),
        ]
        yield case(reference, VAST, 1, 2, 8, 131_072, mode, probes)


if __name__ == "__main__":
    reference = load(sys.argv[1])
    lines = {
        "perms": list(perms(reference)),
        "orders": list(orders(reference)),
    }
    print("{")
    for name, values in lines.items():
        rows = ",\n".join("  " + json.dumps(value, separators=(",", ":")) for value in values)
        print(f'"{name}": [\n{rows}\n]' + ("," if name == "perms" else ""))
    print("}")
