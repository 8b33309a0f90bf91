"""Every kind of field gives what its member holds."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable

import forebay
import numpy as np
import pytest
from conftest import Dataset, OpenLoader
from PIL import Image


def test_every_kind_gives_what_was_written(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {
        "label": forebay.Int("cls"),
        "score": forebay.Float("score"),
        "text": forebay.Text("txt"),
        "document": forebay.Json("json"),
        "blob": forebay.Bytes("bin"),
        "array": forebay.Numpy("npy"),
        "jpg": forebay.Bytes("jpg"),
    }
    seen = []
    for batch in open_loader(dataset.urls, fields=fields, shuffle=True, seed=3, batch_size=7):
        assert list(batch) == list(fields)
        for row, place in enumerate(batch.samples[: batch.valid]):
            sample = dataset.at(place)
            assert np.asarray(batch["label"])[row] == sample.label
            assert np.asarray(batch["score"])[row] == sample.score
            assert batch["text"][row] == sample.text
            assert batch["document"][row] == sample.document
            assert batch["blob"][row] == sample.blob
            assert batch["jpg"][row] == sample.jpg
            np.testing.assert_array_equal(np.asarray(batch["array"])[row], sample.array)
            seen.append(place)
    assert sorted(seen) == dataset.everything


def test_the_first_suffix_that_a_sample_has_wins(write: Callable[..., str], open_loader: OpenLoader) -> None:
    path = write({"a.txt": b"one", "b.text": b"two", "b.txt": b"three", "c.TEXT": b"four"})
    batch = next(iter(open_loader(path, fields={"t": forebay.Text("text", ".txt")}, batch_size=3)))
    assert batch["t"] == ["one", "two", "four"]


def test_a_mask_takes_the_crop_and_flip_of_its_image(write: Callable[..., str], open_loader: OpenLoader) -> None:
    """An image whose red says "mask is 1": after any crop and flip both must still agree."""
    members = {}
    for index in range(12):
        mask = np.zeros((90 + index, 120), np.uint8)
        mask[:, : 20 + 6 * index] = 1
        image = np.stack([mask * 255, mask * 0, mask * 0], axis=-1)
        for name, array in ((f"{index:02}.png", image), (f"{index:02}.seg.png", mask)):
            out = io.BytesIO()
            Image.fromarray(array).save(out, "PNG")
            members[name] = out.getvalue()
    fields = {
        "image": forebay.Image(
            "png",
            transform=[
                forebay.RandomResizedCrop(48, interpolation="nearest", antialias=False),
                forebay.RandomHorizontalFlip(),
            ],
        ),
        "mask": forebay.Mask("seg.png", like="image"),
    }
    batch = next(iter(open_loader(write(members), fields=fields, batch_size=12)))
    image, mask = np.asarray(batch["image"]), np.asarray(batch["mask"])
    assert mask.shape == (12, 48, 48)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0] > 127, mask == 1)
    assert len({bytes(row) for row in mask}) > 6, "the crops differ"


def test_augmentation_is_the_same_on_any_number_of_threads(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(40), forebay.RandomHorizontalFlip()])}
    runs = []
    for threads in (1, 3):
        loader = open_loader(dataset.urls, fields=fields, shuffle=True, seed=5, num_threads=threads)
        runs.append([bytes(batch["image"]) for batch in loader])
        loader.close()
    assert runs[0] == runs[1]
    other = open_loader(dataset.urls, fields=fields, shuffle=True, seed=6)
    assert [bytes(batch["image"]) for batch in other] != runs[0]


def sizes(*shapes: tuple[int, int]) -> dict[str, bytes]:
    members = {}
    for index, (height, width) in enumerate(shapes):
        out = io.BytesIO()
        Image.new("RGB", (width, height), (10, 20, 30)).save(out, "PNG")
        members[f"s{index}.png"] = out.getvalue()
    return members


def test_shapes_that_differ_are_an_error_that_names_both(write: Callable[..., str], open_loader: OpenLoader) -> None:
    loader = open_loader(write(sizes((4, 6), (5, 7))), fields={"image": forebay.Image("png")}, batch_size=2)
    with pytest.raises(forebay.DataError, match=r"s0.*s1.*pad=.*ragged=True"):
        next(iter(loader))


def test_pad_fills_at_the_ends(write: Callable[..., str], open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("png", pad=9)}
    batch = next(iter(open_loader(write(sizes((4, 6), (5, 3))), fields=fields, batch_size=2)))
    image = np.asarray(batch["image"])
    assert image.shape == (2, 5, 6, 3)
    assert (image[0, :4] == [10, 20, 30]).all()
    assert (image[0, 4:] == 9).all()
    assert (image[1, :, :3] == [10, 20, 30]).all()
    assert (image[1, :, 3:] == 9).all()


def test_ragged_gives_a_list_of_arrays(write: Callable[..., str], open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("png", ragged=True)}
    batch = next(iter(open_loader(write(sizes((4, 6), (5, 3))), fields=fields, batch_size=2)))
    assert [array.shape for array in batch["image"]] == [(4, 6, 3), (5, 3, 3)]
    assert all(isinstance(array, forebay.Array) for array in batch["image"])


NPY = ["?", "<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16", ">i4", ">f8"]


@pytest.mark.parametrize("dtype", NPY)
def test_npy_of_every_dtype(write: Callable[..., str], open_loader: OpenLoader, dtype: str) -> None:
    arrays = [np.asfortranarray(np.arange(12).reshape(3, 4) % 5 + index).astype(dtype) for index in range(2)]
    members = {}
    for index, array in enumerate(arrays):
        out = io.BytesIO()
        np.save(out, array)
        members[f"{index}.npy"] = out.getvalue()
    batch = next(iter(open_loader(write(members), fields={"x": forebay.Numpy("npy")}, batch_size=2)))
    assert batch["x"].dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(np.asarray(batch["x"]), np.stack(arrays))
    np.testing.assert_array_equal(np.from_dlpack(batch["x"]), np.stack(arrays))


def test_fields_are_values() -> None:
    image = forebay.Image("jpg", ".PNG", transform=[forebay.Resize(256), forebay.CenterCrop((224, 200))], pad=0)
    same = forebay.Image("jpg", "png", transform=(forebay.Resize(256), forebay.CenterCrop([224, 200])), pad=0.0)
    assert image == same
    assert hash(image) == hash(same)
    assert image != forebay.Image("jpg")
    assert pickle.loads(pickle.dumps(image)) == image
    assert "Resize(size=256" in repr(image)
    assert repr(forebay.Int("cls", "label")) == "Int('cls', 'label')"
    with pytest.raises(AttributeError, match="make a new one"):
        image.pad = 3  # type: ignore[misc]


def test_transforms_take_torchvision_names_and_enumerations() -> None:
    class InterpolationMode:
        value = "bicubic"

    crop = forebay.RandomResizedCrop(
        size=224, scale=(0.2, 1), ratio=(1, 2), interpolation=InterpolationMode(), antialias=False
    )
    assert (crop.size, crop.scale, crop.interpolation) == ((224, 224), (0.2, 1.0), "bicubic")
    assert forebay.Resize([100]).size == 100
    assert forebay.Resize([100, 50]).size == (100, 50)
    assert forebay.Resize(100, max_size=150).max_size == 150


def test_json_of_every_shape_is_parsed(write: Callable[..., str], open_loader: OpenLoader) -> None:
    documents = [None, [1, 2], "text", {"a": {"b": [True]}}, 1.5]
    path = write({f"{index}.json": json.dumps(document).encode() for index, document in enumerate(documents)})
    batch = next(iter(open_loader(path, fields={"j": forebay.Json("json")}, batch_size=5)))
    assert batch["j"] == documents
