"""A model's files as files: cached, checked, opened by path; and tensors over mapped files."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import forebay
import forebay.weights
import numpy as np
import pytest
from children import program
from conftest import Mount
from written import bits, tensor, write

MB = 1 << 20
OTHERS = ("compiled/kernels.so", "config.json", "tokenizer.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of weights, with more than a block and with one-byte elements that put what follows at odd bytes."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "llama"
    (folder / "compiled").mkdir(parents=True)
    first = {
        "large": tensor(rng, "BF16", (2500, 1001)),
        "odd": tensor(rng, "I8", (3,)),
        "behind": tensor(rng, "F32", (4, 5)),
    }
    second = {"four": tensor(rng, "F4", (6, 8)), "none": tensor(rng, "F32", (0, 3)), "one": tensor(rng, "I64", ())}
    write(folder / "model-1.safetensors", first)
    write(folder / "model-2.safetensors", second)
    for name in OTHERS:
        (folder / name).write_bytes(rng.bytes(5000))
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    return folder


@pytest.fixture(params=["where it lies", "cached"])
def opened(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[forebay.weights.Weights]:
    options: dict[str, Any] = {} if request.param == "where it lies" else cached(tmp_path)
    with forebay.weights.open(folder, **options) as weights:
        yield weights


def cached(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "cache_limit": 64 * MB, "host_memory_limit": 128 * MB}


@pytest.mark.parametrize("warm", [False, True])
def test_a_model_in_an_images_layer_comes_from_where_it_is(folder: Path, mount: Mount, warm: bool) -> None:
    """On overlayfs the page cache has the pages of the file below."""
    layer = mount(layer=folder)
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if warm:
            (layer / path.name).read_bytes()
    with forebay.weights.open(layer) as weights:
        found = {name: bits(tensor) for name, tensor in weights.load().items()}
        came = {where for where, bytes_ in weights.stats.items() if bytes_ > MB}
    with forebay.weights.open(folder) as weights:
        assert found == {name: bits(tensor) for name, tensor in weights.load().items()}
    if on_disk(folder):
        assert came == {"page_cache" if warm else "file"}


def on_disk(folder: Path) -> bool:
    """Whether the page cache of a folder's file system can be emptied: not in memory, and not a layer itself."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    return kind.stdout.strip() not in ("tmpfs", "overlayfs")


def data_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.data"), key=lambda path: path.stat().st_size)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_mapped_tensors_are_those_that_are_read(opened: forebay.weights.Weights, framework: str) -> None:
    names = [name for name in opened if framework == "pt" or name != "large"]
    read = opened.load(names, framework=framework)
    mapped = opened.load(names, framework=framework, mmap=True)
    assert list(mapped) == list(read)
    for name in names:
        assert bits(mapped[name]) == bits(read[name]), name
    streamed = [name for name, _ in opened.stream(reversed(names), framework=framework, mmap=True)]
    assert streamed == list(read), "in the order of files"


def test_a_mapped_slice_is_the_slice(opened: forebay.weights.Weights) -> None:
    slices = {"large": (1, 1, 3), "behind": (0, 1, 2), "four": (0, 0, 2)}
    read, mapped = opened.load(slices=slices), opened.load(slices=slices, mmap=True)
    for name in read:
        assert bits(mapped[name]) == bits(read[name]), name
        assert mapped[name].is_contiguous()


def test_a_mapped_tensor_can_be_written_to_and_never_reaches_the_file(
    opened: forebay.weights.Weights, folder: Path
) -> None:
    before = (folder / "model-1.safetensors").read_bytes()
    mapped = opened.get_tensor("large", mmap=True)
    mapped.zero_()
    assert not opened.get_tensor("large").eq(0).all()
    assert not opened.get_tensor("large", mmap=True).eq(0).all()
    assert (folder / "model-1.safetensors").read_bytes() == before


def test_a_mapped_tensor_outlives_its_model_and_an_eviction(folder: Path, tmp_path: Path) -> None:
    state = forebay.weights.load_file(folder, mmap=True, **cached(tmp_path))
    read = forebay.weights.load_file(folder)
    evicted = program("evict", "--all", "--cache-dir", tmp_path / "cache")
    assert evicted["used_bytes"] > 4 * MB, "what is mapped stays"
    for name in read:
        assert bits(state[name]) == bits(read[name]), name
    del state
    assert program("evict", "--all", "--cache-dir", tmp_path / "cache")["used_bytes"] < 4 * MB


def test_a_flipped_bit_is_mended_before_a_file_is_mapped_or_shown(folder: Path, tmp_path: Path) -> None:
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        weights.prefetch()
    flip(data_files(tmp_path)[-1], 4_500_000)
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        assert bits(weights.get_tensor("large", mmap=True)) == bits(weights.get_tensor("large"))
    flip(data_files(tmp_path)[-1], 4_500_000)
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        shown = Path(weights.path("model-1.safetensors"))
        assert shown.read_bytes() == (folder / "model-1.safetensors").read_bytes()


def test_only_host_memory_is_mapped(folder: Path) -> None:
    with forebay.weights.open(folder) as weights, pytest.raises(forebay.ConfigError):
        weights.load(device="cuda", mmap=True)


def test_a_local_file_that_was_replaced_is_not_mapped(folder: Path) -> None:
    with forebay.weights.open(folder) as weights:
        os.utime(folder / "model-1.safetensors", ns=(1, 1))
        with pytest.raises(forebay.ChangedError):
            weights.get_tensor("large", mmap=True)


def test_every_file_of_the_folder_has_a_path(opened: forebay.weights.Weights, folder: Path) -> None:
    paths = {name: Path(opened.path(name)) for name in (*OTHERS, "model-1.safetensors")}
    for name, path in paths.items():
        assert path.read_bytes() == (folder / name).read_bytes()
        assert path.parts[-len(Path(name).parts) :] == Path(name).parts, "its own name"
        assert opened.path(name) == str(path)
    with pytest.raises(FileNotFoundError):
        opened.path("nothing.json")
    for name in ("../cache", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(forebay.ConfigError):
            opened.path(name)


def test_a_shown_file_is_read_only_and_goes_when_the_model_is_closed(folder: Path, tmp_path: Path) -> None:
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        path = Path(weights.path("tokenizer.json"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        (folder / "tokenizer.json").write_bytes(b"another version")
        assert len(path.read_bytes()) == 5000, "the version that was opened"
    assert not path.exists()


def test_a_file_replaced_before_it_was_first_asked_for_is_an_error(folder: Path, tmp_path: Path) -> None:
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        (folder / "tokenizer.json").write_bytes(b"another version")
        with pytest.raises(forebay.ChangedError, match=r"tokenizer\.json changed"):
            weights.path("tokenizer.json")
        assert Path(weights.path("config.json")).read_bytes() == (folder / "config.json").read_bytes()


def test_what_lies_beside_a_single_file_has_a_path_too(folder: Path, tmp_path: Path) -> None:
    for options in ({}, cached(tmp_path)):
        with forebay.weights.open(folder / "model-2.safetensors", **options) as weights:
            assert Path(weights.path("config.json")).read_bytes() == (folder / "config.json").read_bytes()
            with pytest.raises(FileNotFoundError):
                weights.path("nothing.json")


def test_names_are_those_of_the_files_whatever_their_url_makes_of_them(folder: Path) -> None:
    name = "my model 100%.safetensors"
    shutil.copy(folder / "model-2.safetensors", folder / name)
    with forebay.weights.open(folder / name) as weights:
        assert [file.name for file in weights.files] == [name]
        assert weights.path(name) == str(folder / name)
        assert weights.info("one").file == name


def test_a_prefetch_brings_every_file_that_is_no_pickle(folder: Path, tmp_path: Path) -> None:
    weights_bytes = sum((folder / name).stat().st_size for name in ("model-1.safetensors", "model-2.safetensors"))
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        alone = weights.prefetch(weights_only=True)
        assert (alone.files, alone.nbytes, alone.declined_blocks) == (2, weights_bytes, 0)
        everything = weights.prefetch()
        assert (everything.files, everything.nbytes) == (5, weights_bytes + 3 * 5000)
        assert everything.stored_blocks == 3
        assert weights.prefetch().stored_blocks == 0
    with forebay.weights.open(folder) as weights:
        assert weights.prefetch().files == 0, "they are read where they lie"


def test_a_model_that_does_not_fit_is_refused_before_anything_is_fetched(folder: Path, tmp_path: Path) -> None:
    with (folder / "large.gguf").open("wb") as file:
        file.truncate(100 * MB)
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        with pytest.raises(forebay.ConfigError, match="cache_limit"):
            weights.prefetch()
        with pytest.raises(forebay.ConfigError, match=r"cache_limit.*large\.gguf"):
            weights.path("large.gguf")
        assert weights.prefetch(weights_only=True).declined_blocks == 0


def test_files_that_are_held_leave_no_room_for_others(folder: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(np.random.default_rng(1).bytes(40 * MB))
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        held = Path(weights.path("a.gguf"))
        with pytest.raises(forebay.ConfigError, match=r"cache_limit.*b\.gguf"):
            weights.path("b.gguf")
        assert held.read_bytes() == (folder / "a.gguf").read_bytes(), "what is held stays"
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        assert Path(weights.path("b.gguf")).read_bytes() == (folder / "b.gguf").read_bytes()


def test_a_check_finds_a_flipped_bit_and_mends_it(folder: Path, tmp_path: Path) -> None:
    size = (folder / "model-1.safetensors").stat().st_size + (folder / "model-2.safetensors").stat().st_size
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        first = weights.verify()
        assert first.checked_bytes + first.fetched_bytes == size
        assert not first.bad
    flip(data_files(tmp_path)[-1], 4_500_000)
    with forebay.weights.open(folder, **cached(tmp_path)) as weights:
        found = weights.verify()
        (bad,) = found.bad
        assert (bad.file, bad.offset, bad.mended) == ("model-1.safetensors", 4 * MB, True)
        assert found.fetched_bytes == bad.nbytes
        assert found.checked_bytes == size - bad.nbytes
        assert weights.verify() == forebay.weights.Checked(size, 0, 0, 0, [])
    with forebay.weights.open(folder) as weights:
        assert weights.verify() == forebay.weights.Checked(0, 0, 0, size, [])


def test_the_program_says_what_python_says(folder: Path, tmp_path: Path) -> None:
    with forebay.weights.open(folder) as weights:
        listed = program("weights", "ls", folder, "--tensors")
        assert [row["name"] for row in listed["all_tensors"]] == weights.keys()
        assert [row["shape"] for row in listed["all_tensors"]] == [list(weights.info(name).shape) for name in weights]
        assert listed["bytes"] == weights.nbytes
    loaded = program("weights", "load", folder, "--cache-dir", tmp_path / "cache")
    assert sum(loaded["bytes_by_source"].values()) >= loaded["bytes"] == listed["bytes"]


def test_the_program_shows_how_far_it_is_on_a_terminal_alone(folder: Path, tmp_path: Path) -> None:
    for command in ("prefetch", "verify", "load"):
        arguments = [
            sys.executable,
            "-m",
            "forebay",
            "weights",
            command,
            str(folder),
            "--cache-dir",
            str(tmp_path / "cache"),
        ]
        leader, terminal = os.openpty()
        with open(leader, "rb", buffering=0) as leader_file, ThreadPoolExecutor(1) as reading:
            shown = reading.submit(read_to_the_end, leader_file)
            try:
                status = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=terminal, timeout=120).returncode
            finally:
                # Else whoever reads waits for more.
                os.close(terminal)
            assert status == 0
            assert {"prefetch": "prefetching", "verify": "verifying", "load": "loading"}[command] in shown.result()
        piped = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
        assert (piped.returncode, piped.stderr) == (0, "")


def read_to_the_end(terminal: BinaryIO) -> str:
    parts = []
    try:
        while part := terminal.read(4096):
            parts.append(part)
    except OSError as error:
        # Nobody writes to it any more.
        if error.errno != errno.EIO:
            raise
    return b"".join(parts).decode()
