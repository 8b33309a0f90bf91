"""The same bytes through other people's code: WebDataset for grouping, Pillow for pixels."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import forebay
import numpy as np
import photos
import pytest
import webdataset
from conftest import Dataset, OpenLoader
from PIL import Image, ImageOps


def test_samples_are_grouped_as_webdataset_groups_them(write: Callable[..., str], open_loader: OpenLoader) -> None:
    members = [
        ("__meta__/info.txt", b"special"),
        ("dir/a.txt", b"1"),
        ("dir/a.seg.txt", b"seg 1"),
        ("dir/a.b.TXT", b"upper"),
        ("other/a.txt", b"2"),
        ("other/a.seg.txt", b"seg 2"),
        ("deep/er.dir/b.txt", b"3"),
        ("deep/er.dir/b.seg.txt", b"seg 3"),
        ("c.d/e.txt", b"4"),
        ("c.d/e.seg.txt", b"seg 4"),
        ("f.txt", b"5"),
        ("f.seg.txt", b"seg 5"),
    ]
    path = write(members)
    theirs = [
        (sample["txt"], sample["seg.txt"])
        for sample in webdataset.WebDataset(path, shardshuffle=False, empty_check=False)
    ]
    fields = {"txt": forebay.Bytes("txt"), "seg": forebay.Bytes("seg.txt")}
    ours = [
        pair
        for batch in open_loader(path, fields=fields, batch_size=2)
        for pair in list(zip(batch["txt"], batch["seg"], strict=True))[: batch.valid]
    ]
    assert ours == theirs
    assert len(ours) == 5


def test_whole_shards_read_as_webdataset_reads_them(dataset: Dataset, open_loader: OpenLoader) -> None:
    suffixes = ["jpg", "cls", "txt", "json", "bin", "npy", "seg.png"]
    theirs = [
        [sample[suffix] for suffix in suffixes] for sample in webdataset.WebDataset(dataset.urls, shardshuffle=False)
    ]
    fields = {suffix: forebay.Bytes(suffix) for suffix in suffixes}
    ours = [
        [batch[suffix][row] for suffix in suffixes]
        for batch in open_loader(dataset.urls, fields=fields)
        for row in range(batch.valid)
    ]
    assert ours == theirs


def test_gzip_shards_read_like_plain_ones(dataset: Dataset, open_loader: OpenLoader, tmp_path: Any) -> None:
    path = tmp_path / "packed.tar.gz"
    path.write_bytes(gzip.compress(dataset.paths[0].read_bytes(), 1))
    batches = list(open_loader(path, fields={"jpg": forebay.Bytes("jpg")}))
    assert [jpg for batch in batches for jpg in batch["jpg"][: batch.valid]] == [
        sample.jpg for sample in dataset.samples[0]
    ]


def decoded(open_loader: OpenLoader, path: str, image: forebay.Image, rows: int) -> list[np.ndarray]:
    batch = next(iter(open_loader(path, fields={"image": image}, batch_size=rows)))
    return [np.asarray(row) for row in batch["image"]] if image.ragged else list(np.asarray(batch["image"]))


def assert_near(ours: np.ndarray, theirs: Image.Image) -> None:
    """Within 2 levels at most and 0.5 on average."""
    expected = np.asarray(theirs)
    assert ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.5


def pictures(write: Callable[..., str], images: list[bytes], suffix: str = "jpg") -> str:
    return write({f"{index:03}.{suffix}": data for index, data in enumerate(images)})


@pytest.mark.parametrize(
    ("name", "resample"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("size", [(64, 64), (224, 160), (600, 700)])
def test_resized_photographs_are_pillows(
    dataset: Dataset,
    write: Callable[..., str],
    open_loader: OpenLoader,
    name: str,
    resample: Any,
    size: tuple[int, int],
) -> None:
    images = [sample.jpg for sample in dataset.samples[0][:6]]
    path = pictures(write, images)
    ours = decoded(open_loader, path, forebay.Image("jpg", transform=[forebay.Resize(size, name)]), len(images))
    for mine, data in zip(ours, images, strict=True):
        assert_near(mine, Image.open(io.BytesIO(data)).convert("RGB").resize(size[::-1], resample))


def test_whole_and_centre_cropped_photographs_are_pillows(
    dataset: Dataset, write: Callable[..., str], open_loader: OpenLoader
) -> None:
    images = [sample.jpg for sample in dataset.samples[1][:6]]
    path = pictures(write, images)
    for mine, data in zip(decoded(open_loader, path, forebay.Image("jpg", ragged=True), 6), images, strict=True):
        assert_near(mine, Image.open(io.BytesIO(data)).convert("RGB"))
    for mine, data in zip(
        decoded(open_loader, path, forebay.Image("jpg", transform=[forebay.CenterCrop((101, 90))]), 6),
        images,
        strict=True,
    ):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        left, top = round((picture.width - 90) / 2), round((picture.height - 101) / 2)
        assert_near(mine, picture.crop((left, top, left + 90, top + 101)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(write: Callable[..., str], open_loader: OpenLoader, orientation: int) -> None:
    picture = Image.open(photos.sources()[1]).convert("RGB").resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, exif=exif)
    [mine] = decoded(open_loader, pictures(write, [out.getvalue()]), forebay.Image("jpg"), 1)
    assert_near(mine, ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))).convert("RGB"))


MODES = [("L", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGBA", "webp")]
MODES += [(mode, "png") for mode in ("RGB", "RGBA", "LA", "P", "L", "1")]


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_modes_become_rgb_as_pillow_makes_them(
    write: Callable[..., str], open_loader: OpenLoader, mode: str, suffix: str
) -> None:
    picture = Image.open(photos.sources()[2]).convert("RGB").resize((80, 50))
    if mode.endswith("A"):
        picture.putalpha(Image.linear_gradient("L").resize((80, 50)))
    out = io.BytesIO()
    if suffix == "webp":
        picture.convert(mode).save(out, "WEBP", lossless=True)
    else:
        picture.convert(mode).save(out, "JPEG" if suffix == "jpg" else "PNG")
    [mine] = decoded(open_loader, pictures(write, [out.getvalue()], suffix), forebay.Image(suffix), 1)
    assert_near(mine, Image.open(io.BytesIO(out.getvalue())).convert("RGB"))


def grid(width: int, height: int) -> np.ndarray:
    """A picture whose red is x and whose green is y."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)[None, :]
    pixels[..., 1] = np.arange(height)[:, None]
    return pixels


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_random_crops_that_are_not_resized_are_boxes_of_the_picture(
    write: Callable[..., str], open_loader: OpenLoader
) -> None:
    whole = grid(120, 90)
    path = pictures(write, [png(whole)] * 64, "png")
    crop = [forebay.RandomCrop((50, 70)), forebay.RandomHorizontalFlip()]
    corners, mirrored = set(), 0
    for mine in decoded(open_loader, path, forebay.Image("png", transform=crop), 64):
        upright = mine if mine[0, 0, 0] < mine[0, -1, 0] else mine[:, ::-1]
        mirrored += upright is not mine
        left, top = int(upright[0, 0, 0]), int(upright[0, 0, 1])
        corners.add((left, top))
        np.testing.assert_array_equal(upright, whole[top : top + 50, left : left + 70])
    assert len(corners) > 50
    assert 16 < mirrored < 48
    assert min(left for left, _ in corners) < 10 < 40 < max(left for left, _ in corners)


def test_a_random_crop_of_a_smaller_picture_is_an_error_or_padded(
    write: Callable[..., str], open_loader: OpenLoader
) -> None:
    path = pictures(write, [png(grid(40, 30))] * 8, "png")
    with pytest.raises(forebay.DataError, match=r"(?s)000\.png.*50x20 of an image of 40x30.*pad_if_needed=True"):
        decoded(open_loader, path, forebay.Image("png", transform=[forebay.RandomCrop((20, 50))]), 8)
    crop = forebay.RandomCrop((20, 50), pad_if_needed=True)
    for mine in decoded(open_loader, path, forebay.Image("png", transform=[crop]), 8):
        inside = mine[..., 0].max(axis=0).nonzero()[0]
        first = int(inside[0]) - 1  # Red is 0 in the picture's own first column.
        np.testing.assert_array_equal(mine[0, first : first + 40, 0], np.arange(40))
        assert not mine[:, :first].any()
        assert not mine[:, first + 40 :].any()


def test_random_crops_are_pillows_on_some_box_of_the_right_shape(
    write: Callable[..., str], open_loader: OpenLoader
) -> None:
    """A picture whose red is x and whose green is y tells the box; Pillow's resize of that box must give the same pixels."""
    width, height = 256, 192
    path = pictures(write, [png(grid(width, height))] * 32, "png")
    crop = forebay.RandomResizedCrop(64, scale=(0.2, 0.6), interpolation="nearest", antialias=False)
    boxes = set()
    for mine in decoded(open_loader, path, forebay.Image("png", transform=[crop]), 32):
        left, right = int(mine[0, 0, 0]), int(mine[0, -1, 0])
        top, bottom = int(mine[0, 0, 1]), int(mine[-1, 0, 1])
        boxes.add((left, top, right, bottom))
        area = (right - left + 1) * (bottom - top + 1) / (width * height)
        ratio = (right - left + 1) / (bottom - top + 1)
        assert 0.15 < area < 0.65
        assert 0.7 < ratio < 1.45
    assert len(boxes) > 25
