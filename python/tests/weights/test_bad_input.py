"""Files, indexes and arguments that aren't what they should be: an error that names them, and no tensor."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
import torch
from children import run
from forebay import weights
from forebay.weights import SafetensorError
from models import INDEX, Model, limits, make
from servers import RangeServer
from written import entry, raw, tensor, write

Open = Callable[..., weights.Weights]


@pytest.fixture(params=["where it lies", "through the cache"])
def open_at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens a path below the test's folder."""
    if request.param == "where it lies":
        yield weights.open
        return
    with RangeServer(tmp_path) as server:
        yield lambda path: weights.open(f"{server.url}/{path.relative_to(tmp_path)}", **limits(tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make(tmp_path / "model", large=1, mib=1)


@pytest.mark.parametrize(
    ("left", "says"),
    [(0, "0 bytes"), (7, "7 bytes"), (100, "cut short"), (600_000, "cut short"), (-1, "cut short")],
)
def test_a_file_that_is_cut_short_is_named(model: Model, open_at: Open, left: int, says: str) -> None:
    path = model.files[0]
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(SafetensorError, match=rf"{re.escape(path.name)}.*{says}") as caught:
        open_at(path)
    assert isinstance(caught.value, forebay.DataError)
    assert caught.value.location
    assert caught.value.location.endswith(path.name)
    assert caught.value.offset == 0
    with pytest.raises(SafetensorError, match=re.escape(path.name)):
        open_at(model.folder / INDEX)


def test_an_index_that_names_a_missing_file(model: Model, open_at: Open) -> None:
    model.files[1].unlink()
    with pytest.raises(
        SafetensorError, match=rf"{re.escape(INDEX)}.*{re.escape(model.files[1].name)}.*not there"
    ) as caught:
        open_at(model.folder / INDEX)
    assert caught.value.location
    assert caught.value.location.endswith(INDEX)


def test_a_tensor_in_two_files(model: Model, open_at: Open) -> None:
    """The index says of each tensor one file; both files have it."""
    one, two = model.files
    two.write_bytes(one.read_bytes())
    said = {name: one.name for name in model.tensors if name.startswith("1.")}
    (model.folder / INDEX).write_text(json.dumps({"weight_map": said | {"1.0.weight": two.name}}))
    with pytest.raises(SafetensorError, match=rf"{re.escape(two.name)}.*in .*{re.escape(one.name)} too"):
        open_at(model.folder / INDEX)


def test_a_tensor_in_two_files_without_an_index(model: Model, tmp_path: Path) -> None:
    model.files[1].write_bytes(model.files[0].read_bytes())
    (model.folder / INDEX).unlink()
    for url in (model.folder, model.files):
        with pytest.raises(SafetensorError, match="too: which is meant"):
            weights.open(url)


def reindexed(model: Model, change: dict[str, Any]) -> Path:
    """The model's index with other words for some tensors."""
    path = model.folder / INDEX
    path.write_text(json.dumps({"weight_map": json.loads(path.read_text())["weight_map"] | change}))
    return path


def test_a_tensor_that_no_file_has(model: Model, open_at: Open) -> None:
    path = reindexed(model, {"nowhere": model.files[1].name})
    with pytest.raises(SafetensorError, match=rf"{re.escape(INDEX)}.*\"nowhere\".*no file has it"):
        open_at(path)


def test_a_tensor_that_is_in_another_file_than_the_index_says(model: Model, open_at: Open) -> None:
    path = reindexed(model, {"1.0.weight": model.files[1].name})
    with pytest.raises(SafetensorError, match=rf"\"1.0.weight\".*it is in .*{re.escape(model.files[0].name)}"):
        open_at(path)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "sub/../../secret.safetensors",
        "..",
        ".",
        "",
        "/etc/secret.safetensors",
        "sub//x.safetensors",
        "..\\secret.safetensors",
        "C:\\secret.safetensors",
        "file:///etc/secret.safetensors",
        "s3://other/secret.safetensors",
        "model.safetensors\0",
    ],
)
def test_an_index_that_leaves_its_folder(model: Model, open_at: Open, tmp_path: Path, name: str) -> None:
    """Although what it names is there."""
    write(tmp_path / "secret.safetensors", {"secret": tensor(np.random.default_rng(1), "U8", (4,))})
    path = reindexed(model, {"secret": name})
    with pytest.raises(SafetensorError, match=r"\"secret\".*no file of the index's folder") as caught:
        open_at(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [
    pytest.param(b"", id="nothing"),
    pytest.param(b"not JSON", id="no JSON"),
    pytest.param(b'{"weight_map": {"a": "b.saf', id="cut short"),
    pytest.param(b'{"weight_map": {"a\xff": "model.safetensors"}}', id="no UTF-8"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"{}", id="no weight_map"),
    pytest.param(b'{"weight_map": []}', id="a list of weights"),
    pytest.param(b'{"weight_map": {}}', id="an empty one"),
    pytest.param(b'{"weight_map": {"a": 1}}', id="a number"),
    pytest.param(b'{"weight_map": {"a": null}}', id="null"),
    pytest.param(b'{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', id="two files of one tensor"),
    pytest.param(b'{"weight_map": ' + b"[" * 100_000, id="lists in lists"),
    pytest.param(gzip.compress(b'{"weight_map": {"a": "model.safetensors"}}'), id="compressed"),
])  # fmt: skip
def test_an_index_that_is_none(model: Model, open_at: Open, text: bytes) -> None:
    path = model.folder / INDEX
    path.write_bytes(text)
    with pytest.raises(SafetensorError, match=re.escape(INDEX)) as caught:
        open_at(path)
    assert len(str(caught.value)) < 1000


class Evil:
    """Read by pickle it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


def pickled(mark: Path, kind: str) -> bytes:
    """What runs when it is read: as torch saves it, or a pickle alone."""
    if kind == "zip":
        file = io.BytesIO()
        torch.save({"a": Evil(mark)}, file)
        return file.getvalue()
    return pickle.dumps({"a": Evil(mark), "more": b"x" * 1000}, protocol=int(kind))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(suffix, "zip") for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")]
    + [(".safetensors", kind) for kind in ("zip", "0", "1", "2", "3", "4", "5")],
)
def test_pickles_are_refused_and_never_run(tmp_path: Path, open_at: Open, suffix: str, kind: str) -> None:
    mark, path = tmp_path / "it ran", tmp_path / f"model{suffix}"
    path.write_bytes(pickled(mark, kind))
    with pytest.raises(SafetensorError, match=re.escape(path.name)) as caught:
        open_at(path)
    if kind not in ("0", "1"):
        # Those begin as anything may.
        assert "pickle" in str(caught.value)
        assert "weights_only=True" in str(caught.value)
    assert not mark.exists()


def test_pickles_are_refused_by_their_name_whatever_is_in_them(model: Model, open_at: Open) -> None:
    path = model.files[0].rename(model.folder / "pytorch_model.bin")
    with pytest.raises(SafetensorError, match=r"pytorch_model\.bin.*pickle"):
        open_at(path)


def test_an_index_of_pickles_is_refused(model: Model, open_at: Open) -> None:
    path = reindexed(model, {"a": "pytorch_model-00001-of-00002.bin"})
    with pytest.raises(SafetensorError, match=r"pytorch_model-00001-of-00002\.bin.*pickle"):
        open_at(path)
    path = path.rename(model.folder / "pytorch_model.bin.index.json")
    with pytest.raises(SafetensorError, match=r"pytorch_model\.bin\.index\.json.*pickle"):
        open_at(path)


def test_a_folder_of_pickles_is_refused_and_one_with_safetensors_too_is_not(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(pickled(mark, "zip"))
    with pytest.raises(SafetensorError, match=r"pytorch_model\.bin.*pickle"):
        weights.open(folder)
    write(folder / "model.safetensors", {"a": tensor(np.random.default_rng(1), "U8", (4,))})
    with weights.open(folder) as opened:
        assert [file.name for file in opened.files] == ["model.safetensors"]
    assert not mark.exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "missing", "missing/", INDEX, f"missing/{INDEX}"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    for more in ({}, limits(tmp_path)):
        with pytest.raises(forebay.NotFoundError, match=re.escape(name)) as caught:
            weights.open(f"{tmp_path}/{name}", **more)
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.location


def test_folders_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(forebay.NotFoundError, match="folder"):
        weights.open(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(forebay.ConfigError, match=r"folder.*no \.safetensors.*config\.json"):
        weights.open(folder)
    # Those of a folder below are another model's.
    make(folder / "below")
    with pytest.raises(forebay.ConfigError, match=r"folder.*no \.safetensors"):
        weights.open(folder)


# Root may read everything; without its capabilities it is a user like others.
WITHOUT_CAPABILITIES = """
import ctypes, struct
CAPSET = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
assert ctypes.CDLL(None).syscall(CAPSET, struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
from forebay import weights
for url in urls:
    for more in ({}, {"cache_dir": cache}):
        try:
            weights.open(url, **more)
        except forebay.PermissionError as error:
            assert isinstance(error, PermissionError)
            say(error.location)
"""


def test_what_may_not_be_read_is_named(model: Model, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o000)
    model.files[0].chmod(0o000)
    said = run(WITHOUT_CAPABILITIES, tmp_path / "cache", model.files[0], model.folder, locked)
    file, folder = model.files[0].as_uri(), f"{locked.as_uri()}/"
    assert said.split() == [file, file, file, file, folder, folder]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"framework": "tf"}, "framework='tf'.*\"pt\""),
        ({"framework": None}, "framework=None"),
        ({"device": "tpu"}, "device='tpu'.*\"cpu\""),
        ({"device": "meta"}, "device='meta'"),
        ({"device": ""}, "device=''"),
        ({"device": None}, "device='?None"),
        ({"device": "cuda:x"}, "cuda:x"),
        ({"device": "cuda:-1"}, "cuda:-1"),
        ({"device": True}, "device='True'"),
        ({"device": -1}, "device='?(cuda:)?-1"),
        ({"names": ["1.0.weight", "nowhere"]}, "nowhere"),
        ({"slices": {"nowhere": (0, 0, 2)}}, "slices: there is no tensor 'nowhere'"),
        ({"slices": {"1.0.weight": (3, 0, 2)}}, "'1.0.weight' of shape .*a dimension that the tensor has"),
        ({"slices": {"1.0.weight": (-4, 0, 2)}}, "a dimension that the tensor has"),
        ({"slices": {"1.0.scale": (0, 0, 1)}}, "'1.0.scale' of shape .*a dimension that the tensor has"),
        ({"slices": {"1.0.weight": (0, 2, 2)}}, "a rank from 0 to world - 1"),
        ({"slices": {"1.0.weight": (0, -1, 2)}}, "a rank from 0 to world - 1"),
        ({"slices": {"1.0.weight": (0, 0, 0)}}, "a rank from 0 to world - 1"),
        ({"slices": {"1.0.weight": (0, 0, -2)}}, "a rank from 0 to world - 1"),
        ({"slices": {"1.0.weight": (0, 0)}}, "give \\(dimension, rank, world\\)"),
        ({"slices": {"1.0.weight": (0, 0, 2, 3)}}, "give \\(dimension, rank, world\\)"),
        ({"slices": {"1.0.weight": (0.5, 0, 2)}}, "give \\(dimension, rank, world\\)"),
        ({"slices": {"1.0.weight": "012"}}, "give \\(dimension, rank, world\\)"),
        ({"slices": {"1.0.weight": 0}}, "give \\(dimension, rank, world\\)"),
        ({"slices": lambda *_: "all of it"}, "give \\(dimension, rank, world\\)"),
        ({"slices": [("1.0.weight", 0, 0, 2)]}, "slices=.*a function of name, shape and dtype"),
    ],
)
def test_arguments_of_a_load_that_make_no_sense(model: Model, arguments: dict[str, Any], says: str) -> None:
    with weights.open(model.folder) as opened:
        for call in (opened.load, opened.stream):
            with pytest.raises((forebay.ConfigError, KeyError), match=says):
                call(**arguments)
        assert sum(opened.stats.values()) == 0, "nothing was read for it"
        assert model.is_whole(opened.load()), "it works on"


def test_one_name_is_no_list_of_names(model: Model) -> None:
    with weights.open(model.folder) as opened, pytest.raises(forebay.ConfigError, match=r"names='1\.0\.weight'.*list"):
        opened.load("1.0.weight")


def test_what_a_function_of_slices_raises_comes_through(model: Model) -> None:
    def plan(name: str, shape: tuple[int, ...], dtype: str) -> None:
        raise LookupError(f"{name} {shape} {dtype}")

    with weights.open(model.folder) as opened, pytest.raises(LookupError, match=r"1\.0\.weight \(1, 1024, 1024\) U8"):
        opened.load(slices=plan)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"cache_size": "1GB"}, TypeError, "cache_size"),
        ({"cache_limit": "much"}, forebay.ConfigError, "cache_limit='much'"),
        ({"cache_limit": "1MB"}, forebay.ConfigError, r"cache_limit of 1000000 bytes is too small: \d+ bytes is the least"),
        ({"host_memory_limit": -1}, forebay.ConfigError, "host_memory_limit=-1"),
        ({"host_memory_limit": "1MB"}, forebay.ConfigError,
         r"host_memory_limit of 1000000 bytes is too small: \d+ bytes is the least"),
        ({"storage_options": {"enpoint": "x"}}, forebay.ConfigError, "enpoint.*endpoint"),
        ({"storage_options": "endpoint=x"}, forebay.ConfigError, "storage_options"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(
    model: Model, tmp_path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    for call in (weights.open, weights.load_file, weights.safe_open, weights.stream):
        with pytest.raises(error, match=says):
            call(model.folder, **limits(tmp_path, **options))


def test_limits_that_are_said_to_be_the_least_are_enough(model: Model, tmp_path: Path) -> None:
    for option in ("cache_limit", "host_memory_limit"):
        with pytest.raises(forebay.ConfigError) as caught:
            weights.open(model.folder, **limits(tmp_path / option, **{option: "1MB"}))
        found = re.search(r"(\d+) bytes is the least", str(caught.value))
        assert found
        with pytest.raises(forebay.ConfigError, match=f"{found[1]} bytes is the least"):
            weights.open(model.folder, **limits(tmp_path / option, **{option: int(found[1]) - 1}))
        with weights.open(model.folder, **limits(tmp_path / option, **{option: int(found[1])})) as opened:
            assert model.is_whole(opened.load())
            names = [name for name in model.tensors if name.endswith("weight")]
            halves = [opened.load(names, slices=dict.fromkeys(names, (1, rank, 2))) for rank in (0, 1)]
        assert all(model.has(name, torch.cat([half[name] for half in halves], 1)) for name in names)


@pytest.mark.parametrize("url", [None, 5, b"model.safetensors", [], [b"model.safetensors"], [5], "", [""]])
def test_urls_that_are_none(url: Any) -> None:
    with pytest.raises(forebay.ConfigError):
        weights.open(url)


def test_a_file_that_is_given_twice(model: Model) -> None:
    with pytest.raises(forebay.ConfigError, match="given twice"):
        weights.open([model.files[0], model.files[0]])


@pytest.mark.parametrize("backend", ["direct", None, 1])
def test_an_unknown_backend(model: Model, backend: Any) -> None:
    for call in (weights.load_file, weights.safe_open):
        with pytest.raises(forebay.ConfigError, match=r'backend=.*"mmap" and "pread"'):
            call(model.files[0], backend=backend)


def test_a_model_that_was_closed_says_so(model: Model) -> None:
    opened = weights.open(model.folder)
    begun = opened.stream()
    next(begun)
    opened.close()
    opened.close()
    for call in (
        opened.load,
        opened.stream,
        lambda: opened.get_tensor("1.0.weight"),
        lambda: opened.stats,
        opened.metadata,
    ):
        with pytest.raises(forebay.StateError, match="the weights are closed"):
            call()
    with pytest.raises(forebay.StateError, match="the weights are closed"):
        list(begun)
    with weights.safe_open(model.folder) as file:
        file.get_tensor("1.0.weight")
    for call in (file.keys, lambda: file.get_tensor("1.0.weight"), lambda: file.get_slice("1.0.weight")):
        with pytest.raises(SafetensorError, match="closed"):
            call()


def test_a_stream_keeps_its_model(model: Model) -> None:
    """Nobody closes it, and nobody else has it."""
    assert model.is_whole(dict(weights.open(model.folder).stream()))


def test_a_header_of_a_gigabyte_that_is_not_there(tmp_path: Path, open_at: Open) -> None:
    path = raw(tmp_path / "model.safetensors", {"a": entry()}, bytes(8), length=1 << 30)
    with pytest.raises(SafetensorError, match=r"model\.safetensors.*header too large"):
        open_at(path)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 66_176])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path, length: int) -> None:
    """Its length's first bytes are 0x80 0x02 to 0x80 0x05."""
    path = raw(tmp_path / "model.safetensors", json.dumps({"a": entry()}).ljust(length), b"12345678")
    assert path.read_bytes()[0] == 0x80
    assert weights.load_file(path)["a"].shape == (2,)
