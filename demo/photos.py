"""Shards of real photographs, cut from what other packages ship.

Crops of 40 to 100 % of eleven photographs, at sizes around 500 × 375, some mirrored, brighter or darker; JPEG of quality 90
to 96, 4:2:0 and 4:4:4; with a `.cls` label that names the photograph. The same bytes every time for the same versions of the
packages.
"""

from __future__ import annotations

import importlib.util
import io
import os
import random
import tarfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image, ImageEnhance

SOURCES = {
    "skimage": [
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/hubble_deep_field.jpg",
        "data/motorcycle_left.png",
        "data/motorcycle_right.png",
        "data/rocket.jpg",
        "data/camera.png",
        "data/gravel.png",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def sources() -> list[Path]:
    """The photographs that are installed here. Their packages are found, not imported."""
    found = []
    for package, files in SOURCES.items():
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or [] if spec else []:
            found += [path for path in (Path(root) / file for file in files) if path.exists()]
    if not found:
        raise SystemExit("no photographs: install scikit-image and scikit-learn (python/requirements-demo.txt)")
    return found


def cut(folder: Path, shards: int, samples: int, seed: int = 0, processes: int | None = None) -> list[Path]:
    """`shards` tar files of `samples` photographs each in `folder`; those that are there already are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"train-{shard:06}.tar" for shard in range(shards)]
    missing = [(path, shard, samples, seed) for shard, path in enumerate(paths) if not path.exists()]
    if len(missing) > 1:
        with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
            list(pool.map(_cut_shard, missing))
    else:
        for job in missing:
            _cut_shard(job)
    return paths


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar of these (name, bytes), in this order; it appears under its name when it is whole."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    partial.rename(path)


def photograph(rng: random.Random, image: Image.Image) -> bytes:
    """One JPEG made of a part of `image`."""
    width, height = (max(64, round(rng.gauss(mean, 60))) for mean in (500, 375))
    # The largest box of that ratio, then 40 to 100 % of its area.
    scale = min(image.width / width, image.height / height) * rng.uniform(0.4, 1.0) ** 0.5
    box_width, box_height = width * scale, height * scale
    left, top = rng.uniform(0, image.width - box_width), rng.uniform(0, image.height - box_height)
    box = (left, top, left + box_width, top + box_height)
    part = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    part = ImageEnhance.Brightness(part).enhance(rng.uniform(0.8, 1.2))
    out = io.BytesIO()
    part.save(out, "JPEG", quality=rng.randint(90, 96), subsampling=rng.choice(("4:2:0", "4:4:4")))
    return out.getvalue()


def _cut_shard(job: tuple[Path, int, int, int]) -> None:
    path, shard, samples, seed = job
    images = [Image.open(source).convert("RGB") for source in sources()]
    rng = random.Random(f"{seed} {shard}")

    def members() -> Iterable[tuple[str, bytes]]:
        for index in range(samples):
            label = rng.randrange(len(images))
            key = f"{shard:06}-{index:06}"
            yield f"{key}.jpg", photograph(rng, images[label])
            yield f"{key}.cls", str(label).encode()

    write_tar(path, members())
