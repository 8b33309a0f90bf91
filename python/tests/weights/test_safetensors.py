"""`forebay.weights` beside the safetensors package: the same files, the same calls, the same answers.

Where ours is meant to be better a test here says so; docs/weights.md lists the differences.
"""

from __future__ import annotations

import pathlib
import sys
from pathlib import Path
from typing import Any

import forebay
import forebay.weights
import forebay.weights.numpy
import forebay.weights.torch
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from differential import Outcome, assert_same, outcome
from servers import RangeServer
from written import BITS, NUMPY, TORCH, Tensor, bits, entry, raw, tensor, write

SHAPES = ((), (1,), (7,), (3, 5), (4, 2, 8), (2, 1, 3, 8), (0,), (0, 4), (3, 0, 2), (1, 1, 1, 1, 1, 1))


def every_shape(dtype: str, seed: int) -> dict[str, Tensor]:
    """A tensor of each shape that fills whole bytes; of packed types also whole bytes in each row."""
    rng = np.random.default_rng(seed)
    fits = [shape for shape in SHAPES if BITS[dtype] % 8 == 0 or (shape and shape[-1] * BITS[dtype] % 8 == 0)]
    order = rng.permutation(len(fits))
    return {f"layer.{number}": tensor(rng, dtype, fits[number]) for number in order}


@pytest.fixture(params=TORCH)
def torch_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", every_shape(request.param, 1), {"format": "pt", "größe": "😀"})


@pytest.fixture(params=NUMPY)
def numpy_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", every_shape(request.param, 2))


def assert_opens_the_same(path: Path, framework: str) -> None:
    """Everything that an open file can be asked."""
    with safetensors.safe_open(path, framework) as theirs, forebay.weights.safe_open(path, framework) as ours:
        assert ours.keys() == theirs.keys()
        assert ours.metadata() == theirs.metadata()
        assert sorted(ours.offset_keys()) == sorted(theirs.offset_keys())
        assert list(ours.get_tensors()) == ours.offset_keys()
        assert_same(Outcome(ours.get_tensors()), Outcome(theirs.get_tensors()), "get_tensors()")
        for name in theirs.keys():  # noqa: SIM118
            assert bits(ours.get_tensor(name)) == bits(theirs.get_tensor(name)), name
            our_slice, their_slice = ours.get_slice(name), theirs.get_slice(name)
            assert our_slice.get_shape() == their_slice.get_shape()
            assert our_slice.get_dtype() == their_slice.get_dtype()


def test_a_file_opened_for_torch(torch_file: Path) -> None:
    assert_opens_the_same(torch_file, "pt")


def test_a_file_opened_for_numpy(numpy_file: Path) -> None:
    assert_opens_the_same(numpy_file, "np")


def test_a_file_loaded_for_torch(torch_file: Path) -> None:
    theirs = Outcome(safetensors.torch.load_file(torch_file))
    assert_same(Outcome(forebay.weights.load_file(torch_file)), theirs, "load_file")
    assert_same(Outcome(forebay.weights.torch.load_file(torch_file, "cpu")), theirs, "torch.load_file")


def test_a_file_loaded_for_numpy(numpy_file: Path) -> None:
    theirs = Outcome(safetensors.numpy.load_file(numpy_file))
    assert_same(Outcome(forebay.weights.numpy.load_file(numpy_file)), theirs, "numpy.load_file")


@pytest.mark.parametrize("seed", range(8))
def test_random_files_of_many_dtypes(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for number in rng.permutation(40):
        shape = tuple(int(size) for size in rng.integers(0, 6, rng.integers(0, 5)))
        dtype = str(rng.choice(TORCH))
        if dtype == "F4":
            shape = (*shape, 2 * int(rng.integers(0, 4)))
        tensors[f"model.layers.{number}.{dtype}"] = tensor(rng, dtype, shape)
    path = write(tmp_path / "model.safetensors", tensors, {"seed": str(seed)} if seed % 2 else None)
    assert_opens_the_same(path, "pt")


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tensors around the sizes at which memory is shared and reads are cut, at odd offsets."""
    rng = np.random.default_rng(9)
    tensors = {}
    for number in range(60):
        size = int(rng.choice([1, 3, 4095, 4096, 4097, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5]))
        dtype = str(rng.choice(["U8", "F16", "F32", "C64"]))
        tensors[f"{number}.{dtype}"] = tensor(rng, dtype, (size * 8 // BITS[dtype],))
    tensors["matrix"] = tensor(rng, "F32", (300, 2003))
    return write(tmp_path_factory.mktemp("large") / "model.safetensors", tensors)


def test_large_tensors(large_file: Path) -> None:
    assert_opens_the_same(large_file, "pt")
    assert_opens_the_same(large_file, "np")
    assert_same(
        Outcome(forebay.weights.load_file(large_file)), Outcome(safetensors.torch.load_file(large_file)), "load_file"
    )


def test_parts_of_a_large_tensor(large_file: Path) -> None:
    theirs = safetensors.safe_open(large_file, "pt").get_slice("matrix")
    ours = forebay.weights.safe_open(large_file, "pt").get_slice("matrix")
    rng = np.random.default_rng(10)
    for _ in range(40):
        (top, bottom), (left, right) = (sorted(rng.integers(0, size, 2).tolist()) for size in (300, 2003))
        step = int(rng.integers(1, 4))
        assert bits(ours[top:bottom, left:right:step]) == bits(theirs[top:bottom, left:right:step])
        assert bits(ours[:, left]) == bits(theirs[:, left])
        assert bits(ours[[top, bottom], left:right]) == bits(theirs[[top, bottom], left:right])


@pytest.mark.parametrize("cache", ["a cache of its own", "a cache that has it"])
def test_a_file_behind_http(large_file: Path, tmp_path_factory: pytest.TempPathFactory, cache: str) -> None:
    folder = tmp_path_factory.mktemp("cache")
    with RangeServer(large_file.parent) as server:
        url = f"{server.url}/{large_file.name}"
        options = {"cache_dir": folder, "cache_limit": "1GB"}
        theirs = Outcome(safetensors.torch.load_file(large_file))
        if cache == "a cache that has it":
            forebay.weights.load_file(url, **options)
            sent = server.sent_bytes
        assert_same(Outcome(forebay.weights.load_file(url, **options)), theirs, cache)
        if cache == "a cache that has it":
            assert server.sent_bytes - sent < large_file.stat().st_size / 2
        with (
            forebay.weights.safe_open(url, "pt", **options) as opened,
            safetensors.safe_open(large_file, "pt") as other,
        ):
            assert bits(opened.get_slice("matrix")[7:9, 3:]) == bits(other.get_slice("matrix")[7:9, 3:])


def test_what_the_package_writes_is_read(tmp_path: Path) -> None:
    state = {"weight": torch.randn(4, 3).bfloat16(), "scale": torch.tensor(2.0), "mask": torch.tensor([True, False])}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, {"format": "pt"})
    assert_opens_the_same(path, "pt")
    with forebay.weights.safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_tensors_are_owned_contiguous_and_writable(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", every_shape("F32", 3))
    before = path.read_bytes()
    for state in (forebay.weights.load_file(path), forebay.weights.numpy.load_file(path)):
        for each in state.values():
            if isinstance(each, torch.Tensor):
                assert each.is_contiguous()
            else:
                assert each.flags.c_contiguous
                assert each.flags.writeable
            each[...] = 1
    assert path.read_bytes() == before
    assert_opens_the_same(path, "pt")


class Model(torch.nn.Module):
    """Two layers, one of which goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
        self.tied = self.first


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("change", ["nothing", "less", "more", "another shape"])
def test_load_model(tmp_path: Path, strict: bool, change: str) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_model(Model(), str(path))
    state = safetensors.torch.load_file(path)
    if change == "less":
        del state["second.bias"]
    elif change == "more":
        state["third.weight"] = torch.zeros(2)
    elif change == "another shape":
        state["second.bias"] = torch.zeros(4)
    safetensors.torch.save_file(state, path)
    ours, theirs = Model(), Model()
    theirs.load_state_dict(ours.state_dict())
    their_answer = outcome(lambda: safetensors.torch.load_model(theirs, str(path), strict))
    our_answer = outcome(lambda: forebay.weights.load_model(ours, str(path), strict))
    if their_answer.error is None:
        missing, unexpected = our_answer.value
        assert (sorted(missing), sorted(unexpected)) == tuple(sorted(names) for names in their_answer.value)
    else:
        assert_same(our_answer, their_answer, "load_model")
    for name, value in theirs.state_dict().items():
        assert bits(ours.state_dict()[name]) == bits(value), name


def calls(path: Path) -> dict[str, Any]:
    """What else people do with a file or with a wrong name for one, given safe_open."""

    def closed(method: str, *arguments: Any) -> Any:
        def call(safe_open: Any) -> Any:
            with safe_open(path, "pt") as opened:
                pass
            return getattr(opened, method)(*arguments)

        return call

    def kept(safe_open: Any) -> Any:
        with safe_open(path, "pt") as opened:
            kept = opened.get_tensor("a"), opened.get_slice("a")
        return kept[0] + kept[1][:]

    return {
        "by a string": lambda safe_open: safe_open(str(path), "pt").get_tensor("a"),
        "by keyword": lambda safe_open: safe_open(filename=path, framework="pt", device="cpu").get_tensor("a"),
        "torch": lambda safe_open: safe_open(path, "torch").get_tensor("a"),
        "pytorch": lambda safe_open: safe_open(path, "pytorch").get_tensor("a"),
        "numpy": lambda safe_open: safe_open(path, "numpy").get_tensor("a"),
        "mmap": lambda safe_open: safe_open(path, "pt", backend="mmap").get_tensor("a"),
        "pread": lambda safe_open: safe_open(path, "pt", backend="pread").get_tensor("a"),
        "no tensor of that name": lambda safe_open: safe_open(path, "pt").get_tensor("b"),
        "no slice of that name": lambda safe_open: safe_open(path, "pt").get_slice("b"),
        "keys when closed": closed("keys"),
        "offset_keys when closed": closed("offset_keys"),
        "metadata when closed": closed("metadata"),
        "get_tensor when closed": closed("get_tensor", "a"),
        "get_tensors when closed": closed("get_tensors"),
        "get_slice when closed": closed("get_slice", "a"),
        "what was taken before it closed": kept,
        "a file that is not there": lambda safe_open: safe_open(path.with_name("none.safetensors"), "pt"),
        "a folder": lambda safe_open: safe_open(path.parent / "folder", "pt"),
    }


def wrong_arguments(path: Path) -> dict[str, Any]:
    return {
        "framework": lambda safe_open: safe_open(path, "nothing"),
        "backend": lambda safe_open: safe_open(path, "pt", backend="nothing"),
        "device": lambda safe_open: safe_open(path, "pt", device="nothing"),
        "no device": lambda safe_open: safe_open(path, "pt", device=1.5),
        "numpy on a device": lambda safe_open: safe_open(path, "np", device="cuda:0"),
        "a number for a file": lambda safe_open: safe_open(5, "pt"),
    }


@pytest.mark.parametrize("name", calls(pathlib.Path("x")))
def test_other_calls(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "model.safetensors", {"a": Tensor("F32", (2,), bytes(range(8)))})
    (tmp_path / "folder").mkdir()
    call = calls(path)[name]
    theirs = outcome(lambda: call(safetensors.safe_open))
    assert_same(outcome(lambda: call(forebay.weights.safe_open)), theirs, name)


def test_errors_are_of_both_libraries(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"short")
    with pytest.raises(safetensors.SafetensorError) as caught:
        forebay.weights.load_file(path)
    assert isinstance(caught.value, forebay.weights.SafetensorError)
    assert isinstance(caught.value, forebay.DataError)
    assert str(path) in str(caught.value)


# Where ours is meant to be better.


@pytest.mark.parametrize("dtype", ["BF16", *(dtype for dtype in BITS if dtype.startswith("F8"))])
def test_numpy_gets_bf16_and_f8_through_ml_dtypes(tmp_path: Path, dtype: str) -> None:
    """Theirs raises an AttributeError or a TypeError, except for BF16 where somebody has imported ml_dtypes before."""
    tensors = every_shape(dtype, 4)
    path = write(tmp_path / "model.safetensors", tensors)
    loaded = forebay.weights.numpy.load_file(path)
    for name, each in tensors.items():
        assert loaded[name].shape == each.shape
        assert loaded[name].dtype.itemsize == BITS[dtype] // 8
        assert loaded[name].tobytes() == each.data
    assert {each.dtype.name for each in loaded.values()} == {
        str(each.dtype).removeprefix("torch.") for each in forebay.weights.load_file(path).values()
    }


def test_without_ml_dtypes_numpy_gets_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.safetensors", every_shape("BF16", 4))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="ml_dtypes"):
        forebay.weights.numpy.load_file(path)


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_f6_is_read_as_its_bytes(tmp_path: Path, dtype: str) -> None:
    """Theirs opens the file, and gives no tensor of it."""
    path = write(tmp_path / "model.safetensors", {"a": tensor(np.random.default_rng(5), dtype, (4, 2, 8))})
    data = path.read_bytes()[-48:]
    assert isinstance(outcome(lambda: safetensors.torch.load_file(path)).error, safetensors.SafetensorError)
    for framework, byte in (("pt", torch.uint8), ("np", np.dtype(np.uint8))):
        with forebay.weights.safe_open(path, framework) as opened:
            read = opened.get_tensor("a")
            assert opened.get_slice("a").get_shape() == [4, 2, 8]
            assert opened.get_slice("a").get_dtype() == dtype
        assert tuple(read.shape) == (4, 2, 6)
        assert read.dtype == byte
        assert bits(read)[-1] == data


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    """Theirs takes the last, and what it loads is whichever the writer happened to put there."""
    one = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    two = '"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
    path = raw(tmp_path / "model.safetensors", one + two, bytes(8))
    assert outcome(lambda: safetensors.torch.load_file(path)).error is None
    with pytest.raises(forebay.weights.SafetensorError, match=r"\"a\"|'a'|`a`"):
        forebay.weights.load_file(path)


def test_packed_rows_that_end_inside_a_byte_are_read_as_their_bytes(tmp_path: Path) -> None:
    """Rows of three 4-bit numbers: no torch tensor has that shape, and theirs refuses it."""
    path = raw(tmp_path / "model.safetensors", {"a": entry("F4", (2, 3), (0, 3))}, b"abc")
    assert isinstance(outcome(lambda: safetensors.torch.load_file(path)).error, safetensors.SafetensorError)
    read = forebay.weights.load_file(path)["a"]
    assert read.dtype == torch.float4_e2m1fn_x2
    assert tuple(read.shape) == (3,)
    assert bits(read)[-1] == b"abc"


@pytest.mark.parametrize("name", wrong_arguments(pathlib.Path("x")))
def test_wrong_arguments_are_config_errors(tmp_path: Path, name: str) -> None:
    """Theirs are SafetensorErrors and TypeErrors."""
    call = wrong_arguments(write(tmp_path / "model.safetensors", {}))[name]
    assert outcome(lambda: call(safetensors.safe_open)).error is not None
    with pytest.raises(forebay.ConfigError):
        call(forebay.weights.safe_open)


def test_what_is_no_name_is_no_tensor(tmp_path: Path) -> None:
    """A TypeError in theirs."""
    with forebay.weights.safe_open(write(tmp_path / "model.safetensors", {}), "pt") as opened:
        for call in (opened.get_tensor, opened.get_slice):
            for name in (1, None):
                with pytest.raises(forebay.weights.SafetensorError, match=f"does not contain tensor {name}"):
                    call(name)
