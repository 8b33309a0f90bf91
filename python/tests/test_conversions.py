"""Normalize, Cast and Layout: the numbers, types and orders that torch and torchvision make of the same pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import forebay
import forebay.torch
import numpy as np
import pytest
import torch
from conftest import Dataset, OpenLoader
from forebay import Cast, Layout, Normalize
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GEOMETRY = [forebay.RandomResizedCrop((24, 20)), forebay.RandomHorizontalFlip()]


def defined(pixels: np.ndarray) -> np.ndarray:
    """Normalize's definition in numpy: float32, rounded after the product and after the sum."""
    scale = np.array([1 / (255 * std) for std in STD]).astype(np.float32)
    bias = np.array([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).astype(np.float32)
    return pixels.astype(np.float32) * scale + bias


def bits(tensor: Any) -> bytes:
    """An array's or tensor's elements in C order."""
    return torch.as_tensor(tensor).contiguous().view(torch.uint8).numpy().tobytes()


def first(loader: Any) -> Any:
    """The first batch's images, as a tensor; the loader is closed, and its memory free for the next one."""
    image = next(iter(loader))["image"]
    loader.close()
    return image if isinstance(image, torch.Tensor) else torch.from_dlpack(image)


def all_of(loader: Any) -> list[torch.Tensor]:
    """Every batch's images of what is left of the epoch, as `first` gives them."""
    images = [torch.from_dlpack(batch["image"]) for batch in loader]
    loader.close()
    return images


@pytest.fixture
def open_images(dataset: Dataset, open_loader: OpenLoader) -> Callable[..., Any]:
    def call(*steps: Any, kind: Any = forebay.DataLoader, geometry: Any = GEOMETRY, **arguments: Any) -> Any:
        image = forebay.Image("jpg", transform=[*geometry, *steps])
        return open_loader(dataset.urls, kind, fields={"image": image}, seed=7, **arguments)

    return call


def test_normalize_has_the_defined_bits_and_torchvision_values(open_images: Callable[..., Any]) -> None:
    plain = first(open_images())
    image = first(open_images(Normalize(MEAN, STD)))
    assert (image.dtype, image.shape) == (torch.float32, (8, 24, 20, 3))
    assert bits(image) == defined(plain.numpy()).tobytes()
    # torchvision: ToTensor divides by 255, Normalize subtracts and divides.
    expected = (plain.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
def test_cast_alone_keeps_the_levels(open_images: Callable[..., Any], dtype: str) -> None:
    image = first(open_images(Cast(dtype)))
    assert image.dtype == getattr(torch, dtype)
    assert torch.equal(image, first(open_images()).to(image.dtype))
    assert image.float().max() > 200


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cast_behind_normalize_rounds_as_torch_does(open_images: Callable[..., Any], dtype: str) -> None:
    image = first(open_images(Normalize(MEAN, STD), Cast(dtype)))
    expected = torch.from_numpy(defined(first(open_images()).numpy())).to(getattr(torch, dtype))
    assert bits(image) == bits(expected)


@pytest.mark.parametrize("kind", [forebay.DataLoader, forebay.torch.DataLoader])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "channels_last"])
def test_a_layout_is_the_same_numbers_in_another_order(
    open_images: Callable[..., Any], layout: str, dtype: str, kind: Any
) -> None:
    pixels = first(open_images(Cast(dtype)))
    image = first(open_images(Cast(dtype), Layout(layout), kind=kind))
    expected = pixels if layout == "NHWC" else pixels.permute(0, 3, 1, 2)
    assert torch.equal(image, expected)
    assert image.is_contiguous() == (layout != "channels_last")
    assert image.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    assert image.dtype == getattr(torch, dtype)


def test_torch_gets_channels_last_where_no_layout_is_asked_for(open_images: Callable[..., Any]) -> None:
    image = first(open_images(Normalize(MEAN, STD), Cast("bfloat16"), kind=forebay.torch.DataLoader))
    assert (image.shape, image.dtype) == ((8, 3, 24, 20), torch.bfloat16)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_arrays_tell_their_strides_to_everybody(open_images: Callable[..., Any]) -> None:
    pixels = first(open_images(Cast("float32"))).numpy().transpose(0, 3, 1, 2)
    array = next(iter(open_images(Cast("float32"), Layout("channels_last"))))["image"]
    strides = (24 * 20 * 12, 4, 20 * 12, 12)
    assert (array.shape, array.ndim, len(array)) == ((8, 3, 24, 20), 4, 8)
    assert array.__array_interface__["strides"] == memoryview(array).strides == strides
    address = array.__array_interface__["data"][0]
    for view in (np.asarray(array), array.numpy(), np.from_dlpack(array), torch.from_dlpack(array).numpy()):
        np.testing.assert_array_equal(view, pixels)
        assert (view.strides, view.__array_interface__["data"][0]) == (strides, address)
    np.testing.assert_array_equal(np.from_dlpack(array, copy=True), pixels)
    # In the order of the indexes, as bytes() of any view.
    assert bytes(array) == memoryview(array).tobytes() == pixels.tobytes()


def test_channels_last_is_refused_to_who_cannot_take_strides(open_images: Callable[..., Any]) -> None:
    array = next(iter(open_images(Layout("channels_last"))))["image"]
    with pytest.raises(BufferError, match="channels_last"):
        io.BytesIO().write(array)
    with pytest.raises(BufferError, match="channels_last"):
        hashlib.sha256(array)


def test_bfloat16_is_not_for_numpy_and_says_what_to_do(open_images: Callable[..., Any]) -> None:
    array = next(iter(open_images(Cast("bfloat16"))))["image"]
    assert repr(array) == "forebay.Array(shape=(8, 24, 20, 3), dtype=bfloat16)"
    assert (array.dtype, array.nbytes) == ("bfloat16", 8 * 24 * 20 * 3 * 2)
    for take in (np.asarray, array.numpy, lambda _=None: array.__array__(np.float32)):
        with pytest.raises(TypeError, match=r'torch\.from_dlpack.*Cast\("float32"\)'):
            take(array) if take is np.asarray else take()
    with pytest.raises(BufferError, match="DLPack"):
        memoryview(array)
    assert not hasattr(array, "__array_interface__")
    # Without a format these are bytes.
    assert io.BytesIO().write(array) == array.nbytes
    assert torch.from_dlpack(array).dtype == torch.bfloat16


def pictures(*shapes: tuple[int, int]) -> dict[str, bytes]:
    """PNGs of these heights and widths, no two pixels alike."""
    members = {}
    for index, (height, width) in enumerate(shapes):
        out = io.BytesIO()
        pixels = np.arange(height * width * 3).reshape(height, width, 3) * 5 + index
        Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
        members[f"s{index}.png"] = out.getvalue()
    return members


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "channels_last"])
@pytest.mark.parametrize("steps", [[], [Normalize(MEAN, STD)], [Normalize(MEAN, STD), Cast("bfloat16")]])
def test_images_of_any_size_are_converted_too(
    write: Callable[..., str], open_loader: OpenLoader, steps: list[Any], layout: str
) -> None:
    sizes = [(4, 6), (5, 3)]
    path = write(pictures(*sizes))

    def batch(*steps: Any, **shapes: Any) -> Any:
        fields = {"image": forebay.Image("png", transform=steps, **shapes)}
        loader = open_loader(path, fields=fields, batch_size=2)
        image = next(iter(loader))["image"]
        loader.close()
        return image

    expected = [
        torch.from_numpy(defined(np.asarray(each)) if steps else np.asarray(each)) for each in batch(ragged=True)
    ]
    dtype = torch.bfloat16 if len(steps) == 2 else expected[0].dtype
    order = (0, 1, 2) if layout == "NHWC" else (2, 0, 1)
    expected = [image.to(dtype).permute(order) for image in expected]
    ragged = [torch.from_dlpack(each) for each in batch(*steps, Layout(layout), ragged=True)]
    for image, wanted in zip(ragged, expected, strict=True):
        assert (image.shape, bits(image)) == (wanted.shape, bits(wanted))
        assert image.is_contiguous() == (layout != "channels_last")
    # The padding is not normalised.
    pad = -1.5 if steps else 9
    padded = torch.from_dlpack(batch(*steps, Layout(layout), pad=pad))
    assert padded.shape == ((2, 5, 6, 3) if layout == "NHWC" else (2, 3, 5, 6))
    for image, wanted in zip(padded, expected, strict=True):
        inside = tuple(slice(length) for length in wanted.shape)
        outside = torch.ones(image.shape, dtype=torch.bool)
        outside[inside] = False
        assert torch.equal(image[inside], wanted)
        assert outside.any()
        assert (image[outside] == pad).all()


def test_masks_of_a_converted_image_stay_class_indexes(dataset: Dataset, open_loader: OpenLoader) -> None:
    fields = {
        "image": forebay.Image("jpg", transform=[*GEOMETRY, Normalize(MEAN, STD), Layout("NCHW")]),
        "mask": forebay.Mask("seg.png", like="image"),
    }
    batch = next(iter(open_loader(dataset.urls, fields=fields)))
    assert (batch["image"].shape, batch["mask"].shape, batch["mask"].dtype) == ((8, 3, 24, 20), (8, 24, 20), "uint8")


def test_conversions_draw_nothing_and_keep_the_state(open_images: Callable[..., Any]) -> None:
    steps = [Normalize(MEAN, STD), Cast("float16"), Layout("NCHW")]
    wholes = all_of(open_images(*steps, shuffle=True))
    for plain, image in zip(all_of(open_images(shuffle=True)), wholes, strict=True):
        expected = torch.from_numpy(defined(plain.numpy())).half().permute(0, 3, 1, 2)
        assert torch.equal(image, expected)
    running = open_images(*steps, shuffle=True)
    next(iter(running))
    state = running.state_dict()
    running.close()
    resumed = open_images(*steps, shuffle=True)
    resumed.load_state_dict(state)
    assert [bits(image) for image in all_of(resumed)] == [bits(image) for image in wholes[1:]]


def test_float_batches_count_against_the_memory_limit(open_images: Callable[..., Any]) -> None:
    """What four bytes a number take is in the least limit that an error names."""
    large = [forebay.Resize((3000, 3000))]
    with pytest.raises(forebay.ConfigError, match="host_memory_limit") as uint8:
        open_images(geometry=large, host_memory_limit="100MB")
    with pytest.raises(forebay.ConfigError, match="host_memory_limit") as float32:
        open_images(Cast("float32"), geometry=large, host_memory_limit="100MB")

    def least(error: Any) -> int:
        return max(int(word) for word in str(error.value).replace(",", "").split() if word.isdigit())

    assert least(float32) > 2 * least(uint8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Normalize((0.5, 0.5), STD), "mean=(0.5, 0.5): give three numbers"),
        (lambda: Normalize(0.5, STD), "mean=0.5: give three numbers"),
        (lambda: Normalize(MEAN, (1, 1, 1, 1)), "std=(1, 1, 1, 1): give three numbers"),
        (lambda: Normalize(MEAN, (0.5, 0, 0.5)), "above 0"),
        (lambda: Normalize(MEAN, (0.5, -1, 0.5)), "above 0"),
        (lambda: Normalize(MEAN, (0.5, float("nan"), 0.5)), "std=nan"),
        (lambda: Normalize(MEAN, (0.5, 1e-300, 0.5)), "1e-300 is so small"),
        (lambda: Normalize((0, float("inf"), 0), STD), "mean=inf"),
        (lambda: Normalize((0, "1", 0), STD), "mean='1'"),
        (lambda: Cast("bf16"), "did you mean 'bfloat16'?"),
        (lambda: Cast("float64"), "'float16', 'bfloat16', 'float32'"),
        (lambda: Cast(torch.bfloat16), "did you mean 'bfloat16'?"),
        (lambda: Cast(None), "dtype=None"),
        (lambda: Layout("nchw"), "did you mean 'NCHW'?"),
        (lambda: Layout("channels_first"), "give one of 'NHWC', 'NCHW', 'channels_last'"),
        (lambda: forebay.Image("jpg", transform=[Normalize]), "call it, Normalize(...)"),
        (
            lambda: forebay.Image("jpg", transform=[Cast("float32"), Normalize(MEAN, STD)]),
            "then Normalize, Cast, Layout",
        ),
        (lambda: forebay.Image("jpg", transform=[Layout("NCHW"), Cast("float32")]), "then Normalize, Cast, Layout"),
        (lambda: forebay.Image("jpg", transform=[Layout("NCHW"), forebay.Resize(8)]), "Resize"),
        (lambda: forebay.Image("jpg", transform=[Cast("float32"), Cast("float16")]), "Cast twice"),
        (lambda: forebay.Image("jpg", transform=[Normalize(MEAN, STD), Cast("uint8")]), "don't fit uint8"),
        (lambda: forebay.Image("jpg", transform=[Cast("uint8")], pad=-1), "pad=-1"),
    ],
)
def test_bad_conversions(make: Any, says: str) -> None:
    with pytest.raises(forebay.ConfigError) as caught:
        make()
    assert says in str(caught.value)


def test_padding_that_a_type_cannot_hold_is_an_error(write: Callable[..., str], open_loader: OpenLoader) -> None:
    fields = {"image": forebay.Image("png", transform=[Cast("float16")], pad=1e6)}
    loader = open_loader(write(pictures((4, 6), (5, 3))), fields=fields, batch_size=2)
    with pytest.raises(forebay.ConfigError, match="pad=1000000 is no value of float16"):
        next(iter(loader))
