"""`decode_on`: JPEG images decoded by the device. A simulated nvJPEG has the pixels of libjpeg-turbo; a real one is near."""

from __future__ import annotations

import io
import random
from itertools import cycle
from typing import TYPE_CHECKING, Any

import forebay
import numpy as np
import pytest
from consumer import Consumer, Taken
from PIL import Image
from simulator import REAL, Simulator
from soak import IntoConsumers
from test_bad_input import assert_ends_with_its_device, assert_fails_once, failure
from test_batches import assert_same, host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Dataset, OpenLoader

FIELDS = {
    "image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(40), forebay.RandomHorizontalFlip()]),
    "normal": forebay.Image(
        "jpg",
        transform=[
            forebay.Resize(48),
            forebay.CenterCrop(32),
            forebay.Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
            forebay.Cast("float16"),
            forebay.Layout("NCHW"),
        ],
    ),
    "mask": forebay.Mask("seg.png", like="image"),
    "label": forebay.Int("cls"),
    "text": forebay.Text("txt"),
    "feature": forebay.Numpy("npy"),
}
IMAGE = {"image": FIELDS["image"]}
GPU: dict[str, Any] = {"device": "cuda", "decode_on": "gpu", "gpu_memory_limit": "256MB"}


# A real nvJPEG fills in colours and rounds in its own way: pixels are off by some levels in the mean; by tens where they are of
# another image or another place. Normalize makes 1 / 255 / 0.2 of a level at most.
LEVELS = 8
APART = {"image": LEVELS, "normal": LEVELS / 255 / 0.2}


def assert_alike(ours: Any, theirs: Any) -> None:
    """Equal batches, but for the pixels of a real nvJPEG."""
    if not REAL:
        assert_same(ours, theirs)
        return
    assert list(ours) == list(theirs)
    assert (ours.index, ours.valid, ours.samples) == (theirs.index, theirs.valid, theirs.samples)
    for name in ours:
        assert_near(name, host(ours[name]), host(theirs[name]))


def assert_near(name: str, left: Any, right: Any) -> None:
    """Columns that are equal; pixels of a real nvJPEG are near."""
    if not REAL or name not in APART:
        np.testing.assert_array_equal(left, right, err_msg=name)
        return
    assert (left.shape, left.dtype) == (right.shape, right.dtype), name
    assert np.abs(left.astype(np.float64) - right.astype(np.float64)).mean() < APART[name], name


def jpeg(loader: Any) -> dict[str, Any]:
    """What the device decoded."""
    told: dict[str, Any] = loader.stats().device["jpeg"]
    return told


def test_two_epochs_are_those_of_the_cpu(dataset: Dataset, open_loader: OpenLoader) -> None:
    ours = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **GPU)
    theirs = open_loader(dataset.urls, fields=FIELDS, shuffle=True)
    for _ in range(2):
        for left, right in zip(ours, theirs, strict=True):
            assert_alike(left, right)
    told = jpeg(ours)
    assert told["on"] == "gpu"
    assert told["library"].startswith("nvJPEG ")
    assert told["images"] + sum(told["refused"].values()) == 2 * 2 * 60
    assert told["images"] > 0


def test_every_image_that_it_takes_is_counted_with_its_bytes(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    loader = open_loader(dataset.urls, fields=IMAGE, **GPU)
    for _ in loader:
        pass
    told = jpeg(loader)
    assert (told["images"], told["refused"], told["backend"]) == (60, {}, "device")
    assert "nvJPEG 12.4.0" in told["library"]
    assert driver.counter("jpeg_images") == 60
    assert told["compressed_bytes"] == sum(len(sample.jpg) for shard in dataset.samples for sample in shard)


def test_pixels_of_images_that_it_decodes_never_cross_the_bus(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields={**IMAGE, "label": forebay.Int("cls")}, **GPU)
    for _ in loader:
        pass
    on_host = 60 - jpeg(loader)["images"]
    assert on_host == sum(jpeg(loader)["refused"].values()) < 60
    assert loader.stats().device["copied_bytes"] == 60 * 8 + on_host * 40 * 40 * 3
    assert sum(loader.stats().samples_by_tier.values()) == 60


def test_a_consumers_own_memory_is_written(dataset: Dataset, open_loader: OpenLoader, consumer: Consumer) -> None:
    fields = {name: FIELDS[name] for name in ("image", "normal")}
    ours = open_loader(dataset.urls, IntoConsumers, fields=fields, **GPU)
    batches = zip(ours, open_loader(dataset.urls, fields=fields), strict=True)
    pairs = [(left[name], np.asarray(right[name])) for left, right in batches for name in fields]
    for (got, wanted), name in zip(consumer.own_copies(pairs), cycle(fields), strict=False):
        assert_near(name, got, wanted)


def encoded(number: int, mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((120 + number, 90)).convert(mode)
    data = io.BytesIO()
    small.save(data, options.pop("format", "JPEG"), **options)
    return data.getvalue()


def turned(number: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(number, exif=exif)


def test_images_as_cameras_store_them_are_upright(write: Callable[..., str], open_loader: OpenLoader) -> None:
    url = write({f"{number}.jpg": turned(number, number) for number in range(1, 9)})
    ours = open_loader(url, fields=IMAGE, batch_size=4, shuffle=True, **GPU)
    for left, right in zip(ours, open_loader(url, fields=IMAGE, batch_size=4, shuffle=True), strict=True):
        assert_alike(left, right)
    assert jpeg(ours)["images"] == 8


def test_what_it_refuses_goes_to_the_cpu_and_is_counted(write: Callable[..., str], open_loader: OpenLoader) -> None:
    members = {f"{number}.jpg": encoded(number) for number in range(6)}
    members["2.jpg"] = encoded(2, "CMYK")
    members["3.jpg"] = encoded(3, format="PNG")
    members["4.jpg"] = encoded(4, "L")
    members["5.jpg"] = encoded(5, progressive=True)
    url = write(members)
    ours = open_loader(url, fields=IMAGE, batch_size=6, **GPU)
    for left, right in zip(ours, open_loader(url, fields=IMAGE, batch_size=6), strict=True):
        assert_alike(left, right)
    told = jpeg(ours)
    # Engines made for JPEG take no progressive images.
    refused = 2 if told["backend"] == "engines" else 1
    assert told["refused"] == {"unsupported": refused}, told
    assert told["images"] == 5 - refused
    # The rest of the six rows, PNG among them, was the host's.
    assert ours.stats().device["copied_bytes"] == (1 + refused) * 40 * 40 * 3


def test_images_that_engines_never_take_go_to_the_cpu_one_and_all(
    write: Callable[..., str], open_loader: OpenLoader, driver: Simulator
) -> None:
    driver.configure("jpeg_engines=1")
    url = write({f"{number:03}.jpg": encoded(number, progressive=True) for number in range(90)})
    ours = open_loader(url, fields=IMAGE, batch_size=30, **GPU)
    for left, right in zip(ours, open_loader(url, fields=IMAGE, batch_size=30), strict=True):
        assert_same(left, right)
    assert (jpeg(ours)["images"], jpeg(ours)["refused"], jpeg(ours)["backend"]) == (0, {"unsupported": 90}, "engines")


def test_auto_is_the_cpu_where_no_image_is_a_jpeg(write: Callable[..., str], open_loader: OpenLoader) -> None:
    url = write({f"{number:03}.png": encoded(number, format="PNG") for number in range(60)})
    loader = open_loader(
        url,
        fields={"image": forebay.Image("png", transform=[forebay.Resize((8, 8))])},
        batch_size=4,
        device="cuda",
        decode_on="auto",
    )
    for _ in loader:
        pass
    assert (jpeg(loader)["on"], jpeg(loader)["images"]) == ("cpu", 0)
    assert "takes none" in jpeg(loader)["why"]


def test_files_larger_than_all_pinned_memory_are_the_cpus(write: Callable[..., str], open_loader: OpenLoader) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2600, 2600, 3), np.uint8)
    big = io.BytesIO()
    Image.fromarray(noise).save(big, "JPEG", quality=98)
    assert big.tell() > 8 << 20
    url = write({"0.jpg": encoded(0), "1.jpg": big.getvalue()})
    settings: dict[str, Any] = {"fields": IMAGE, "batch_size": 2, "host_memory_limit": "2GB"}
    ours = open_loader(url, **settings, **GPU)
    for left, right in zip(ours, open_loader(url, **settings), strict=True):
        assert_alike(left, right)
    assert jpeg(ours)["images"] + sum(jpeg(ours)["refused"].values()) == 2


@pytest.mark.parametrize("which", range(4))
def test_one_image_of_a_group_that_it_refuses_spoils_no_other(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, which: int
) -> None:
    driver.configure(f"faults=jpeg@{1 + 7 * which}")
    ours = open_loader(dataset.urls, fields=IMAGE, shuffle=True, **GPU)
    for left, right in zip(ours, open_loader(dataset.urls, fields=IMAGE, shuffle=True), strict=True):
        assert_alike(left, right)
    told = jpeg(ours)
    assert told["images"] + sum(told["refused"].values()) == 60
    assert sum(told["refused"].values()) <= 1


def test_a_damaged_image_is_an_error_that_names_it_or_skipped(
    write: Callable[..., str], open_loader: OpenLoader
) -> None:
    members = {f"{number}.jpg": encoded(number) for number in range(6)}
    members["3.jpg"] = members["3.jpg"][:900]
    url = write(members)
    with (
        open_loader(url, fields=IMAGE, batch_size=3, **GPU) as broken,
        pytest.raises(forebay.DataError, match=r"3\.jpg"),
    ):
        list(broken)
    skip: dict[str, Any] = {"fields": IMAGE, "batch_size": 3, "on_error": "skip", "shuffle": True}
    ours, theirs = open_loader(url, **skip, **GPU), open_loader(url, **skip)
    for left, right in zip(ours, theirs, strict=True):
        assert_alike(left, right)
    assert ours.stats().skipped == theirs.stats().skipped == 1
    assert jpeg(ours)["refused"] == {"corrupt": 1}


def test_images_larger_than_its_part_of_memory_are_the_cpus(
    write: Callable[..., str], open_loader: OpenLoader, driver: Simulator
) -> None:
    big = io.BytesIO()
    Image.new("RGB", (2000, 1500), "teal").save(big, "JPEG")
    url = write({"0.jpg": encoded(0), "1.jpg": big.getvalue()})
    ours = open_loader(url, fields=IMAGE, batch_size=2, **{**GPU, "gpu_memory_limit": "48MB"})
    for left, right in zip(ours, open_loader(url, fields=IMAGE, batch_size=2), strict=True):
        assert_alike(left, right)
    assert (jpeg(ours)["images"], jpeg(ours)["refused"]) == (1, {"memory": 1})


def test_auto_measures_both_and_says_what_it_took_and_why(dataset: Dataset, open_loader: OpenLoader) -> None:
    loader = open_loader(dataset.urls, fields=IMAGE, device="cuda", decode_on="auto", batch_size=4)
    theirs = open_loader(dataset.urls, fields=IMAGE, batch_size=4)
    assert jpeg(loader)["on"] == "measuring"
    for left, right in zip(loader, theirs, strict=True):
        assert_alike(left, right)
    told = jpeg(loader)
    assert told["on"] in ("cpu", "gpu")
    assert "images/s" in told["why"]
    assert 12 <= told["images"] <= 60 - 12
    assert any(told["why"] in note for note in loader.stats().notes)


def test_without_a_library_that_works_gpu_is_an_error_and_auto_the_cpu(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    driver.configure("nvjpeg=0")
    words = "libnvjpeg.so.12"
    said = failure(lambda: open_loader(dataset.urls, fields=IMAGE, **GPU))
    assert said is not None
    assert words in said, said
    assert "nvidia-nvjpeg-cu12" in said, said
    loader = open_loader(dataset.urls, fields=IMAGE, device="cuda", decode_on="auto")
    assert sum(batch.valid for batch in loader) == 60
    told = jpeg(loader)
    assert (told["on"], told["images"]) == ("cpu", 0)
    assert words in told["why"]
    assert any("decoded on the CPU" in note for note in loader.stats().notes)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"fields": {"label": forebay.Int("cls")}}, "no field is an Image"),
    ({"fields": {"image": forebay.Image("jpg", transform=[forebay.Resize(40)], pad=0)}}, "differing sizes"),
    (
        {"fields": {"image": forebay.Image("jpg", transform=[forebay.RandomCrop(32), forebay.Resize((8, 8))])}},
        "one resize",
    ),
    ({"decoded_limit": "16MB"}, "decoded samples are kept"),
    ({"gpu_decoded_limit": "16MB"}, "decoded samples are kept"),
    ({"gpu_memory_limit": "8MB"}, "raise gpu_memory_limit"),
    ({"device": "cpu", "gpu_memory_limit": None}, "decode_on='gpu': batches stay in host memory"),
    ({"decode_on": "tpu"}, "decode_on"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_what_cannot_be_is_refused_by_name(
    dataset: Dataset, open_loader: OpenLoader, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises((forebay.ConfigError, forebay.DeviceError), match=words):
        open_loader(dataset.urls, **{"fields": IMAGE, **GPU, **wrong})


def test_no_memory_is_allocated_after_the_first_batches(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator
) -> None:
    """Of nvJPEG's own: pieces of pinned memory, of few sizes, are used again."""
    loader = open_loader(dataset.urls, fields=FIELDS, shuffle=True, **GPU)
    for _ in range(6):
        for _ in loader:
            pass
    # Batches' memory, and the decoders' own.
    assert driver.counter("device_allocations") == 2
    assert driver.counter("pinned_allocations") < 30 < driver.counter("jpeg_groups")


@pytest.mark.simulator
@pytest.mark.parametrize("at", [60, 200, 700])
def test_a_lost_device_ends_a_loader_that_decodes_on_it(dataset: Dataset, tmp_path: Path, at: int) -> None:
    arguments = {"decode_on": "gpu", "gpu_memory_limit": "256MB"}
    assert_ends_with_its_device(dataset, tmp_path, arguments, f"lost@{at}")


@pytest.mark.parametrize("at", [1, 5, 40])
@pytest.mark.parametrize(
    "function",
    ["cuStreamCreate", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuLaunchKernel", "nvjpegDecodeBatched"],
)
def test_any_call_may_fail(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, function: str, at: int
) -> None:
    fault = f"{function}@{at}" + ("" if function.startswith("nvjpeg") else ":801")
    assert_fails_once(driver, fault, lambda: open_loader(dataset.urls, fields=IMAGE, **GPU))


@pytest.mark.parametrize("seed", range(6))
def test_epochs_that_are_left_and_batches_that_are_held(
    dataset: Dataset, open_loader: OpenLoader, driver: Simulator, consumer: Consumer, seed: int
) -> None:
    rng = random.Random(seed)
    driver.configure(f"seed={seed} delay_us={rng.choice([0, 200, 500])} jpeg_engines={seed % 2}")
    loader = open_loader(
        dataset.urls,
        fields={**IMAGE, "label": forebay.Int("cls")},
        shuffle=True,
        batch_size=rng.choice([3, 5]),
        num_threads=rng.choice([1, 3]),
        **{**GPU, "gpu_memory_limit": rng.choice(["48MB", "64MB"])},
    )
    theirs = open_loader(dataset.urls, fields=IMAGE, shuffle=True, batch_size=loader.batch_size)
    stream = consumer.stream()
    held: list[Taken] = []
    for epoch in range(3):
        leaves = rng.choice([None, rng.randrange(8)])
        loader.set_epoch(epoch)
        theirs.set_epoch(epoch)
        for left, right in zip(loader, theirs, strict=True):
            np.testing.assert_array_equal(host(left["image"]), host(right["image"]))
            held.append(Taken(left["image"].__dlpack__(stream=stream)))
            if len(held) > 2:
                held.pop(0).release()
            if left.index == leaves:
                break
    for taken in held:
        taken.release()
