"""JPEG images decoded by the device, with nvJPEG: how fast beside the CPU, and how far its pixels are from the CPU's."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..measure import Answer, execute
from ..place import Place
from .loading import IMAGE_BYTES, LABEL_BYTES, bus, compared, epochs, figures, photographs, usual

WHERE = ("cpu", "gpu", "auto")
# How photographs are stored: what Pillow is told.
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "grey": {"mode": "L"},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "CMYK": {"mode": "CMYK"},
}
# No device decodes all of these: engines made for JPEG refuse the first, everything the second.
MAY_BE_REFUSED = ("progressive", "CMYK")
# Decoders round and fill in colours in their own ways, by a level or two in the mean; a picture with its colours exchanged, or
# another one, is off by tens.
MOST_MEAN_LEVELS = 8


def measure(place: Place) -> Answer:
    """Epochs with each `decode_on`, a process for each; then every kind of image on the device and on the CPU."""
    settings, log = usual(place, photographs(place)), place.logs / "jpeg.log"
    answers = {on: epochs(place, {**settings, "loader": {"decode_on": on}}, log) for on in WHERE}
    kinds = place.empty("jpeg-kinds")
    told = {
        **compared(place),
        "kinds": {kind: str(store(kinds, kind, place.scaled(128, 8))) for kind in KINDS},
    }
    levels = execute([*place.peer("forebay_levels"), json.dumps(told)], log)
    return {
        **{name: levels[name] for name in ("library", "backend", "passed_over")},
        "decode_on": {on: decoded(answer) for on, answer in answers.items()},
        "levels": levels["kinds"],
    }


def decoded(answer: Answer) -> Answer:
    """An epoch's figures, who decoded it, and what had to cross the bus: labels, and images that the CPU decoded."""
    jpeg, rows = answer["device"]["jpeg"], answer["rows"]
    due = rows * LABEL_BYTES + (rows - jpeg["images"]) * IMAGE_BYTES
    told = {name: jpeg[name] for name in ("on", "why", "compressed_bytes", "refused")}
    return {
        **figures(answer),
        **told,
        "on_device": jpeg["images"],
        "of": rows,
        **bus(answer["device"]["copied_bytes"], due),
    }


def store(folder: Path, kind: str, samples: int) -> Path:
    """A shard of photographs of one kind, at sizes from 224 on, odd ones among them."""
    from photos import sources, write_tar
    from PIL import Image

    options = dict(KINDS[kind])
    mode = options.pop("mode", "RGB")
    rng = random.Random(kind)
    images = [Image.open(source).convert("RGB") for source in sources()]

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(samples):
            size = (rng.randrange(224, 640), rng.randrange(224, 480))
            data = io.BytesIO()
            small = images[number % len(images)].resize(size, Image.Resampling.BICUBIC)
            small.convert(mode).save(data, "JPEG", quality=rng.randint(75, 96), **options)
            yield f"{number:06}.jpg", data.getvalue()

    path = folder / f"{kind.replace(':', '')}.tar"
    write_tar(path, members())
    return path


def wrong(found: Answer) -> list[str]:
    """What no decoder may do, however it rounds."""
    lines = []
    for kind, each in found["levels"].items():
        on_device, refused = each["on_device"], sum(each["refused"].values())
        if on_device + refused != each["images"]:
            lines.append(
                f"{kind}: of {each['images']} images {on_device} were decoded by the device, {refused} refused"
            )
        if not on_device and kind not in MAY_BE_REFUSED:
            lines.append(f"{kind}: the device decoded none of {each['images']} images: {each['refused']}")
        for name in ("decoded", "resized"):
            apart = each[name]
            if apart["mean"] > MOST_MEAN_LEVELS:
                lines.append(f"{kind}, {name}: {apart['mean']:.1f} levels from the CPU's: not the same pictures")
            if not on_device and apart["largest"]:
                lines.append(f"{kind}, {name}: decoded by the CPU alone, and {apart['largest']} levels from it")
    return lines
