"""Tensor-parallel plans: what the ranks of a world have between them is the whole, and each reads little more than its part."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
import torch
from children import run
from forebay import weights
from forebay.weights import SafetensorError
from models import MIB, limits
from written import BITS, Tensor, tensor, write

WHOLE_BYTES = tuple(dtype for dtype in BITS if BITS[dtype] % 8 == 0)
LENGTHS = (0, 1, 2, 3, 5, 7, 8, 16, 33, 100)


def elements(given: Any) -> np.ndarray:
    """Each element as its bytes, in one more dimension."""
    if isinstance(given, torch.Tensor):
        flat = given.reshape(-1).view(torch.uint8).numpy()
        return flat.reshape(*given.shape, given.element_size())
    return np.ascontiguousarray(given).view(np.uint8).reshape(*given.shape, given.itemsize)


def written_elements(given: Tensor) -> np.ndarray:
    return np.frombuffer(given.data, np.uint8).reshape(*given.shape, BITS[given.dtype] // 8)


def span(given: Any) -> tuple[int, int]:
    """Its memory."""
    start = given.data_ptr() if isinstance(given, torch.Tensor) else given.ctypes.data
    return start, start + given.nbytes


def random_model(rng: random.Random) -> dict[str, Tensor]:
    """Tensors of any type and shape; some of several blocks' bytes, so that runs go on in the next one."""
    arrays = np.random.default_rng(rng.getrandbits(32))
    tensors = {}
    for number in range(rng.randrange(1, 12)):
        shape = tuple(rng.choice(LENGTHS) for _ in range(rng.randrange(0, 5)))
        if number == 0:
            shape = tuple(rng.choice([(1500, 701), (701, 1500), (5, 250_001), (9, 11, 15_000)]))
        while np.prod(shape, dtype=np.int64) > 1_500_000:
            shape = shape[1:]
        tensors[f"t{number}"] = tensor(arrays, rng.choice(WHOLE_BYTES), shape)
    return tensors


def random_plan(rng: random.Random, tensors: dict[str, Tensor]) -> dict[str, int]:
    """A dimension of each tensor that is shared out, counted from either end."""
    return {
        name: rng.randrange(-len(each.shape), len(each.shape))
        for name, each in tensors.items()
        if each.shape and rng.random() < 0.9
    }


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_random_plans_reassemble(tmp_path: Path, seed: int, cached: bool) -> None:
    """Every rank's tensors are its own: contiguous, writable, and in memory that no other tensor has."""
    rng = random.Random(seed)
    tensors = random_model(rng)
    path = write(tmp_path / "model.safetensors", tensors)
    dimensions, world = random_plan(rng, tensors), rng.choice([1, 2, 3, 4, 7, 8])
    with weights.open(path, **limits(tmp_path) if cached else {}) as opened:
        plans = [{name: (dimension, rank, world) for name, dimension in dimensions.items()} for rank in range(world)]
        loads = [
            opened.load(slices=plan if rng.random() < 0.5 else lambda name, *_, plan=plan: plan.get(name))
            for plan in plans
        ]
    spans = []
    for name, whole in tensors.items():
        ranks = [each[name] for each in loads]
        for each in ranks:
            assert each.is_contiguous()
            assert each.is_leaf
            spans.append(span(each))
        if name in dimensions:
            dimension = dimensions[name] % len(whole.shape)
            sizes = [each.shape[dimension] for each in ranks]
            size = whole.shape[dimension]
            assert sizes == [(rank + 1) * size // world - rank * size // world for rank in range(world)]
            together = np.concatenate([elements(each) for each in ranks], dimension)
            assert np.array_equal(together, written_elements(whole)), (name, whole.dtype, whole.shape, dimension)
        else:
            assert all(np.array_equal(elements(each), written_elements(whole)) for each in ranks)
    spans = sorted(each for each in spans if each[0] < each[1])
    assert all(one[1] <= two[0] for one, two in pairwise(spans)), "no byte is two tensors'"
    # Written to, they change nobody else's.
    before = [{name: elements(each).copy() for name, each in load.items()} for load in loads]
    for each in loads[0].values():
        each.view(torch.uint8).fill_(1) if each.dim() else each.fill_(1)
    for load, old in list(zip(loads, before, strict=True))[1:]:
        assert all(np.array_equal(elements(each), old[name]) for name, each in load.items())


@pytest.mark.parametrize("seed", range(4))
def test_numpy_arrays_reassemble_too(tmp_path: Path, seed: int) -> None:
    rng = random.Random(100 + seed)
    tensors = {
        name: Tensor("U8", (*each.shape[:-1], len(each.data) // max(1, int(np.prod(each.shape[:-1])))), each.data)
        for name, each in random_model(rng).items()
        if each.data
    }
    path = write(tmp_path / "model.safetensors", tensors)
    world = rng.choice([2, 3, 5])
    dimensions = random_plan(rng, tensors)
    loads = [
        dict(weights.stream(path, framework="np", slices={name: (at, rank, world) for name, at in dimensions.items()}))
        for rank in range(world)
    ]
    for name, dimension in dimensions.items():
        ranks = [each[name] for each in loads]
        assert all(each.flags.c_contiguous and each.flags.writeable for each in ranks)
        assert np.array_equal(np.concatenate(ranks, dimension)[..., None], written_elements(tensors[name]))


def matrix(path: Path, shape: tuple[int, ...], dtype: str = "U8") -> np.ndarray:
    """A file with one tensor, `w`."""
    one = tensor(np.random.default_rng(5), dtype, shape)
    write(path, {"w": one})
    return written_elements(one)


@pytest.mark.parametrize(
    ("size", "world", "sizes"),
    [(10, 4, [2, 3, 2, 3]), (7, 3, [2, 2, 3]), (2, 4, [0, 1, 0, 1]), (0, 3, [0, 0, 0]), (5, 1, [5])],
)
@pytest.mark.parametrize("dimension", [0, 1, -1, -2])
def test_worlds_that_do_not_divide_a_dimension(
    tmp_path: Path, size: int, world: int, sizes: list[int], dimension: int
) -> None:
    shape = (size, 6) if dimension in (0, -2) else (6, size)
    whole = matrix(tmp_path / "model.safetensors", shape)
    ranks = [
        weights.load_file(tmp_path / "model.safetensors", slices={"w": (dimension, rank, world)})["w"]
        for rank in range(world)
    ]
    assert [each.shape[dimension] for each in ranks] == sizes
    assert np.array_equal(torch.cat(ranks, dimension).numpy()[..., None], whole)


def test_a_function_is_asked_of_each_tensor_with_its_name_shape_and_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    tensors = {"a.weight": tensor(rng, "BF16", (8, 4)), "b.bias": tensor(rng, "F32", (3,)), "c": tensor(rng, "I64", ())}
    path = write(tmp_path / "model.safetensors", tensors)
    asked = []

    def plan(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, int, int] | None:
        asked.append((name, shape, dtype))
        return (0, np.int64(1), 2) if name.endswith("weight") else None

    loaded = weights.load_file(path, slices=plan)
    assert asked == [(name, each.shape, each.dtype) for name, each in tensors.items()]
    assert [tuple(each.shape) for each in loaded.values()] == [(4, 4), (3,), ()]
    assert np.array_equal(elements(loaded["a.weight"]), written_elements(tensors["a.weight"])[4:])
    asked.clear()
    with weights.open(path) as opened:
        assert list(opened.load(["c"], slices=plan)) == ["c"]
    assert [name for name, *_ in asked] == ["c"], "of those that are wanted"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", ["U8", "F32"])
def test_contiguous_rows_read_only_their_own_bytes(tmp_path: Path, dtype: str, cached: bool) -> None:
    """And less than a cache line in front of them, so that they lie aligned."""
    whole = matrix(tmp_path / "model.safetensors", (1021, 3001), dtype)
    for world in (1, 2, 5):
        for rank in range(world):
            with weights.open(tmp_path / "model.safetensors", **limits(tmp_path) if cached else {}) as opened:
                rows = opened.load(slices={"w": (0, rank, world)})["w"]
                assert 0 <= sum(opened.stats.values()) - rows.nbytes < 64
            assert np.array_equal(elements(rows), whole[rank * 1021 // world : (rank + 1) * 1021 // world])


def test_columns_with_wide_gaps_read_only_their_own_bytes(tmp_path: Path) -> None:
    """What lies between two runs is read along where it is 64 KiB at most."""
    whole = matrix(tmp_path / "model.safetensors", (12, 300_000))
    with weights.open(tmp_path / "model.safetensors") as opened:
        columns = opened.load(slices={"w": (1, 1, 2)})["w"]
        assert sum(opened.stats.values()) == columns.nbytes
    assert np.array_equal(elements(columns), whole[:, 150_000:])


READS = """
from forebay import weights
def reads():
    return int(open("/proc/self/io").read().split("syscr:")[1].split()[0])
with weights.open(urls) as opened:
    opened.get_tensor("w")
    before = reads()
    opened.load(slices={"w": (1, 1, 4)})
    say(reads() - before, sum(opened.stats.values()) - opened.info("w").nbytes)
"""


def test_narrow_columns_are_read_in_few_large_reads(tmp_path: Path) -> None:
    """20,000 runs of 250 bytes in 20 MB: what lies between them is read along, block by block."""
    path = tmp_path / "model.safetensors"
    matrix(path, (20_000, 1000))
    reads, read_bytes = map(int, run(READS, tmp_path, path).split())
    assert reads < 100
    assert 5_000_000 < read_bytes < path.stat().st_size
    assert path.stat().st_size // (4 * MIB) <= reads, "it counts"


def test_elements_smaller_than_a_byte_are_shared_out_in_whole_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = tensor(np.random.default_rng(9), "F4", (6, 8))
    write(path, {"w": whole})
    data = np.frombuffer(whole.data, np.uint8).reshape(6, 4)
    for dimension, world in ((0, 2), (0, 4), (1, 2), (1, 4), (-1, 4)):
        ranks = [
            weights.load_file(path, slices={"w": (dimension, rank, world)})["w"].view(torch.uint8).numpy()
            for rank in range(world)
        ]
        assert np.array_equal(np.concatenate(ranks, dimension), data)
    with pytest.raises((forebay.ConfigError, SafetensorError), match=r"\"w\".*inside a byte"):
        weights.load_file(path, slices={"w": (1, 0, 8)})
