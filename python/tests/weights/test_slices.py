"""`get_slice` in every form, beside safetensors' own and beside torch's and numpy's indexing of the whole tensor.

For torch the package gives what torch gives, and so do we. For numpy it takes integers and forward slices only, reads
True as 1, and refuses what is empty; ours gives what numpy gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import forebay.weights
import numpy as np
import pytest
import safetensors
import torch
from differential import Outcome, assert_same, outcome
from written import NUMPY, TORCH, Tensor, bits, tensor, write

SHAPES = {"cube": (2, 3, 4), "vector": (5,), "scalar": (), "no rows": (0, 3), "no columns": (3, 0), "long": (40, 6)}

# torch and numpy say so of indexes whose meaning they are about to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class One:
    """What only says that it is a number."""

    def __index__(self) -> int:
        return 1


class At:
    """Indexes as they are written: `AT[1:, ...]`."""

    def __getitem__(self, index: Any) -> Any:
        return index


AT = At()

FORMS: list[Any] = [
    # Integers and what stands for one.
    0, 1, -1, -2, 2, -3, 5, -6, 2**63, 2**70, -(2**70), True, False, One(), np.int64(1), np.int64(-1), np.uint8(1),
    np.array(1), torch.tensor(1), np.array(True), torch.tensor(True), np.bool_(True), 1.5, np.float32(1), "a", b"x",
    {0}, {},
    # All of it, and new dimensions.
    None, ..., (), AT[..., ...], AT[None, None], AT[None, ...], AT[..., None], AT[:, None], AT[None, :],
    AT[0, None, 0], AT[:, None, 1:3], AT[None, None, None, None, 0], AT[True, :], AT[:, True], AT[..., True],
    AT[:, True, 0],
    # Slices.
    AT[:], AT[1:], AT[0:1], AT[:1], AT[-1:], AT[:-1], AT[-5:], AT[5:], AT[0:100], AT[2:1], AT[1:1], AT[0:0], AT[4:2],
    AT[2:-1], AT[-2:], AT[::1], AT[::2], AT[1::2], AT[::3], AT[1::100], AT[1:40:7], AT[::-1], AT[::0], AT[2**63 :],
    AT[One() :], AT[:: One()], AT[0.0:1], AT[np.int64(0) : np.int64(1)], AT[torch.tensor(0) : torch.tensor(1)],
    AT["a":],
    # Of several dimensions.
    AT[0, 0], AT[0, -1], AT[0, 3], AT[0, -4], AT[0, 0, 0], AT[0, 0, 0, 0], AT[-1, -1, -1], (0,), AT[One(), One()],
    AT[:, 0], AT[:, -1], AT[:, 3], AT[:, -3], AT[:, -4], AT[:, :, 4], AT[:, :], AT[:, :, :], AT[:, :, :, :],
    AT[:, 1:3], AT[:, ::2], AT[:, 2:0], AT[:, :, 1:3], AT[:, :, ::3], AT[0, :, 1], AT[0, 1:, :2], AT[1:2, 1:3, 1:4],
    AT[1:2, 2:3, 3:4], AT[-1:, -1:, -1:], AT[0:0, :, :], AT[..., 0], AT[0, ...], AT[..., 1:3], AT[0, ..., 0],
    AT[..., :], AT[0, 0, 0, ...], AT[..., 0, 0, 0], AT[0, 0, 0, 0, ...], AT[:, :, :, ...], AT[3:30:2, 1:5:3],
    AT[:, 5],
    # Lists, masks, arrays and tensors.
    [], [0], [1, 0], [-1], [0, 0], [2], [-3], [4, 0], [True, False], [True], [True] * 5, [True, False, True],
    [True, False, True, False, True], [[0, 1]], [0.0], ["a"], [None], [True, 0], [2**70], [One()], [np.int64(1)],
    [torch.tensor(1)], [np.array([0, 1])], ((0, 1),), ((0, 1), 0), range(2), np.array([0, 1]),
    np.array([1, 0], np.uint8), np.array([-1]), np.array([True, False]), np.array([True, False, True]),
    np.array([[0, 1], [1, 0]]), np.ones((2, 3), bool), np.ones((2, 3, 4), bool), np.array([0.0, 1.0]),
    np.array([], int), np.array([]), torch.tensor([0, 1]), torch.tensor([1, 0], dtype=torch.uint8),
    torch.tensor([-1]), torch.tensor([2]), torch.tensor([True, False]), torch.tensor([[0, 1], [1, 0]]),
    torch.ones(2, 3, dtype=torch.bool), torch.tensor([0.0, 1.0]), torch.tensor([], dtype=torch.int64),
    torch.tensor([0, 1], dtype=torch.int32), AT[:, [0, 2]], AT[:, [2, 0]], AT[:, [0, 2], :], AT[:, []],
    AT[[0, 1], [0, 1]], AT[[0], [1], [2]], AT[:, [0, 2], [1, 3]], AT[[0, 1], :, [0, 1]], AT[0, [0, 1]], AT[[0, 1], 0],
    AT[[0], 0:2], AT[..., [0, 2]], AT[None, [0, 1]], AT[[0, 1], None], AT[:, [3]], AT[:, [-3]], AT[:, [-4]],
    AT[:, np.array([0, 2])], AT[:, np.array([True, False, True])], AT[:, np.array([True, False])],
    AT[np.array([0, 1]), np.array([0, 1])], AT[:, torch.tensor([0, 2])], AT[:, torch.tensor(1)],
    AT[torch.tensor(1), torch.tensor(1)], AT[:, torch.tensor([True, False, True])],
]  # fmt: skip


EVERY_SHAPE = [(dtype, name) for dtype in ("I32", "F16") for name in SHAPES]


def of_each(dtypes: Iterable[str]) -> list[tuple[str, str]]:
    """A cube of each that the package slices."""
    return [(dtype, "cube") for dtype in dtypes if dtype not in ("F4", "F6_E2M3", "F6_E3M2")]


def shown(index: Any) -> str:
    return " ".join(repr(index).split())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(6)
    tensors = {f"{dtype} {name}": tensor(rng, dtype, SHAPES[name]) for dtype, name in {*EVERY_SHAPE, *of_each(TORCH)}}
    return write(tmp_path_factory.mktemp("slices") / "model.safetensors", tensors)


class Asked:
    """One tensor, sliced by both libraries and whole."""

    def __init__(self, path: Path, framework: str, name: str) -> None:
        self.ours = forebay.weights.safe_open(path, framework).get_slice(name)
        opened = safetensors.safe_open(path, framework)
        self.theirs, self.whole = opened.get_slice(name), opened.get_tensor(name)

    def check_torch(self, index: Any) -> None:
        theirs = outcome(lambda: self.theirs[index])
        assert_same(outcome(lambda: self.ours[index]), theirs, shown(index))

    def check_numpy(self, index: Any) -> None:
        ours, theirs = outcome(lambda: self.ours[index]), outcome(lambda: self.theirs[index])
        numpy = outcome(lambda: self.whole[index])
        if numpy.error is None:
            assert_same(ours, Outcome(np.asarray(numpy.value)), shown(index))
        else:
            assert ours.error is not None, f"{shown(index)}: ours gives {ours}, numpy {numpy}, theirs {theirs}"
            assert isinstance(ours.error, (type(numpy.error), safetensors.SafetensorError)), f"{shown(index)}: {ours}"
        if theirs.error is None and not reads_a_truth(index):
            assert_same(ours, theirs, shown(index))


def reads_a_truth(index: Any) -> bool:
    """A form that the package takes for 0 or 1, where numpy and torch add a dimension."""
    if isinstance(index, torch.Tensor):
        return index.dtype == torch.bool
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, bool) or (part is not index and reads_a_truth(part)) for part in parts)


@pytest.mark.parametrize(("dtype", "name"), sorted({*EVERY_SHAPE, *of_each(TORCH)}))
def test_every_form_for_torch(file: Path, dtype: str, name: str) -> None:
    asked = Asked(file, "pt", f"{dtype} {name}")
    for index in FORMS:
        asked.check_torch(index)


@pytest.mark.parametrize(("dtype", "name"), sorted({*EVERY_SHAPE, *of_each(NUMPY)}))
def test_every_form_for_numpy(file: Path, dtype: str, name: str) -> None:
    asked = Asked(file, "np", f"{dtype} {name}")
    for index in FORMS:
        asked.check_numpy(index)


def random_part(rng: np.random.Generator, size: int) -> Any:
    """One part of an index, of a dimension of this size or of none."""
    near = lambda: int(rng.integers(-size - 2, size + 3))  # noqa: E731
    within = lambda count: rng.integers(-max(size, 1), max(size, 1), count)  # noqa: E731
    edge = lambda: None if rng.random() < 0.3 else near()  # noqa: E731
    match rng.integers(0, 12):
        case 0 | 1:
            return near()
        case 2 | 3 | 4:
            return slice(edge(), edge())
        case 5 | 6:
            return slice(edge(), edge(), int(rng.integers(1, 4)))
        case 7:
            return within(rng.integers(0, 4)).tolist()
        case 8:
            return rng.random(size) < 0.5
        case 9:
            return torch.from_numpy(within(3))
        case 10:
            return None
        case _:
            return ...


def random_indexes(seed: int, shape: tuple[int, ...], count: int) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        parts = [random_part(rng, shape[at] if at < len(shape) else 2) for at in range(rng.integers(0, len(shape) + 2))]
        if sum(part is ... for part in parts) > 1:
            continue
        yield parts[0] if len(parts) == 1 else tuple(parts)


@pytest.mark.parametrize("seed", range(6))
def test_random_indexes(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 9, rng.integers(1, 5)))
    for framework, dtypes in (("pt", [each for each in TORCH if each != "F4"]), ("np", NUMPY)):
        dtype = str(rng.choice(dtypes))
        path = write(
            tmp_path / f"{framework}.safetensors",
            {"before": Tensor("U8", (3,), b"abc"), "a": tensor(rng, dtype, shape)},
        )
        asked = Asked(path, framework, "a")
        for index in random_indexes(seed, shape, 150):
            asked.check_torch(index) if framework == "pt" else asked.check_numpy(index)


def test_parts_are_owned(file: Path) -> None:
    before = file.read_bytes()
    for framework in ("pt", "np"):
        part = forebay.weights.safe_open(file, framework).get_slice("I32 cube")
        for index in (AT[:], AT[1], AT[:, 1:2], AT[0, 0, 0], AT[()]):
            whole = part[()]
            part[index][...] = 7
            assert bits(part[()]) == bits(whole)
    assert file.read_bytes() == before


def test_packed_f4_is_sliced_by_its_numbers_where_bytes_allow_it(tmp_path: Path) -> None:
    """Theirs can't; see get_shape(), whose numbers these are. A torch element holds two of them."""
    path = write(tmp_path / "model.safetensors", {"a": tensor(np.random.default_rng(7), "F4", (6, 8))})
    with forebay.weights.safe_open(path, "pt") as opened:
        part, whole = opened.get_slice("a"), opened.get_tensor("a").view(torch.uint8)
        assert whole.shape == (6, 4)
        for index, of_bytes in (
            (AT[:], AT[:]), (AT[2:5], AT[2:5]), (AT[1], AT[1]), (AT[-1], AT[-1]), (AT[::2], AT[::2]), (AT[...], AT[...]),
            (AT[:, 2:6], AT[:, 1:3]), (AT[1:3, 4:], AT[1:3, 2:]), (AT[..., :2], AT[..., :1]), (AT[0, 0:8], AT[0, :]),
        ):  # fmt: skip
            got = part[index]
            assert got.dtype == torch.float4_e2m1fn_x2, shown(index)
            assert bits(got.view(torch.uint8)) == bits(whole[of_bytes]), shown(index)
        for index in (AT[:, 1:3], AT[:, :3], AT[0, 1], AT[..., ::2]):
            with pytest.raises(forebay.weights.SafetensorError):
                part[index]


def test_packed_rows_that_end_inside_a_byte_are_sliced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": tensor(np.random.default_rng(7), "F4", (2, 3))})
    with forebay.weights.safe_open(path, "pt") as opened:
        part, whole = opened.get_slice("a"), opened.get_tensor("a").view(torch.uint8)
        assert whole.shape == (3,)
        for index in (AT[:], AT[:, :], AT[0:2], AT[...]):
            assert bits(part[index].view(torch.uint8)) == bits(whole), shown(index)
        for index in (AT[0], AT[1:], AT[:, 0:2], AT[:, 1], AT[::2]):
            with pytest.raises(forebay.weights.SafetensorError):
                part[index]
