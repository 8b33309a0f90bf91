"""Corrupt samples and shards: an error that names object, member and offset, or a replacement that is counted."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
from conftest import LABEL, Dataset, OpenLoader, labels_of, samples_of
from faults import fail
from PIL import Image
from servers import RangeServer

IMAGE = {"image": forebay.Image("jpg", transform=[forebay.Resize((16, 16))])}
Write = Callable[..., str]


def jpeg(size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def with_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def damaged(marker: bytes, behind: int, bytes_: bytes) -> bytes:
    """A JPEG in which these bytes stand so far behind a marker."""
    data = bytearray(jpeg())
    at = data.index(marker) + behind
    data[at : at + len(bytes_)] = bytes_
    return bytes(data)


BAD_JPEGS = {
    "empty": b"",
    "text": b"not a picture at all",
    "truncated": jpeg()[:400],
    # Codes by length, of which there can't be so many.
    "corrupt tables": damaged(b"\xff\xc4", 5, b"\xff" * 16),
    # The end of the image in the midst of its data.
    "corrupt data": damaged(b"\xff\xda", 200, b"\xff\xd9"),
    "no size": with_size(0, 0),
    "far too large": with_size(65_535, 65_535),
}


@pytest.mark.parametrize("name", BAD_JPEGS)
def test_a_bad_picture_is_named(write: Write, open_loader: OpenLoader, name: str) -> None:
    path = write({"a.jpg": jpeg(), "b.jpg": BAD_JPEGS[name]})
    with pytest.raises(forebay.DataError, match=r"b\.jpg.*byte \d+") as caught:
        samples_of(open_loader(path, fields=IMAGE))
    error = caught.value
    assert error.location
    assert error.location.endswith("x.tar")
    assert error.member == "b.jpg"
    with tarfile.open(path) as tar:
        assert error.offset == tar.getmember("b.jpg").offset_data


def test_pictures_are_decoded_by_content_not_by_name(write: Write, open_loader: OpenLoader) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(out, "PNG")
    batch = next(iter(open_loader(write({"a.jpg": out.getvalue()}), fields=IMAGE)))
    assert (np.asarray(batch["image"])[0] == [1, 2, 3]).all()


BAD_MEMBERS = pytest.mark.parametrize(
    ("field", "content", "says"),
    [
        (forebay.Int("x"), b"abc", "abc"),
        (forebay.Int("x"), b"", ""),
        (forebay.Int("x"), b"99999999999999999999", "99999999999999999999"),
        (forebay.Int("x"), b"1.5", "1.5"),
        (forebay.Float("x"), b"one", "one"),
        (forebay.Text("x"), b"\xff\xfe", "UTF-8"),
        (forebay.Json("x"), b"{", "JSON"),
        (forebay.Numpy("x"), b"\x93NUMPY\x01\x00", "npy"),
        (forebay.Numpy("x"), b"no array", "npy"),
    ],
)


@BAD_MEMBERS
def test_a_member_that_is_not_what_its_field_says(
    write: Write, open_loader: OpenLoader, field: forebay.Field, content: bytes, says: str
) -> None:
    with pytest.raises(forebay.DataError) as caught:
        samples_of(open_loader(write({"k.x": content}), fields={"f": field}))
    assert says.lower() in str(caught.value).lower()
    assert caught.value.member == "k.x"


def test_a_missing_field_says_what_there_is(write: Write, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.DataError, match=r"'?\"?b\"?'?.*cls.*jpg"):
        samples_of(open_loader(write({"a.cls": b"1", "b.jpg": jpeg()}), fields=LABEL))


def test_skip_replaces_counts_and_lists(write: Write, open_loader: OpenLoader) -> None:
    broken = set(range(0, 960, 80))
    path = write({f"{index:03}.cls": b"nonsense" if index in broken else str(index).encode() for index in range(960)})
    loader = open_loader(path, shuffle=True, on_error="skip", batch_size=32)
    labels = [label for batch in loader for label in np.asarray(batch["label"]).tolist()]
    assert len(labels) == 960, "positions never shift"
    assert set(labels) == set(range(960)) - broken
    stats = loader.stats()
    assert stats.skipped == len(stats.errors) == len(broken)
    assert all(".cls" in error and "x.tar" in error for error in stats.errors)
    loader.close()
    again = open_loader(path, shuffle=True, on_error="skip", batch_size=32, num_threads=1)
    assert [label for batch in again for label in np.asarray(batch["label"]).tolist()] == labels
    again.close()
    bounded = open_loader(path, shuffle=True, on_error="skip", batch_size=32, max_errors=3)
    with pytest.raises(forebay.DataError, match="max_errors=3"):
        samples_of(bounded)


GOOD_MEMBERS = {"Int": b"1", "Float": b"1.5", "Text": b"text", "Json": b"{}", "Numpy": None}


@BAD_MEMBERS
def test_skip_covers_every_member_that_is_not_what_its_field_says(
    write: Write, open_loader: OpenLoader, field: forebay.Field, content: bytes, says: str
) -> None:
    good = GOOD_MEMBERS[type(field).__name__]
    if good is None:
        array = io.BytesIO()
        np.save(array, np.zeros(3))
        good = array.getvalue()
    members = {f"{index}.x": content if index == 3 else good for index in range(8)}
    loader = open_loader(write(members), fields={"f": field}, on_error="skip")
    places = samples_of(loader)
    assert len(places) == 8
    assert (0, 3) not in places
    assert loader.stats().skipped == 1


@pytest.mark.parametrize("name", BAD_JPEGS)
def test_skip_covers_bad_pictures(write: Write, open_loader: OpenLoader, name: str) -> None:
    loader = open_loader(write({"a.jpg": jpeg(), "b.jpg": BAD_JPEGS[name]}), fields=IMAGE, on_error="skip")
    assert samples_of(loader) == [(0, 0), (0, 0)]
    assert loader.stats().skipped == 1


def test_skip_covers_a_missing_field(write: Write, open_loader: OpenLoader) -> None:
    loader = open_loader(write({"a.cls": b"1", "b.jpg": jpeg()}), fields=LABEL, on_error="skip")
    assert samples_of(loader) == [(0, 0), (0, 0)]
    assert loader.stats().skipped == 1


def test_skip_does_not_cover_a_broken_shard(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    path.write_bytes(dataset.paths[0].read_bytes()[:100_000])
    with pytest.raises(forebay.DataError, match=r"cut\.tar.*byte \d+"):
        samples_of(open_loader(path, on_error="skip"))


def test_skip_does_not_cover_shapes_that_differ(write: Write, open_loader: OpenLoader) -> None:
    path = write({"a.jpg": jpeg((8, 8)), "b.jpg": jpeg((9, 9))})
    with pytest.raises(forebay.DataError, match="pad="):
        samples_of(open_loader(path, fields={"image": forebay.Image("jpg")}, on_error="skip"))


def test_skip_does_not_cover_a_dataset_without_one_good_sample(write: Write, open_loader: OpenLoader) -> None:
    with pytest.raises(forebay.DataError, match="no sample of the dataset can be decoded"):
        samples_of(open_loader(write({"a.cls": b"x", "b.cls": b"y"}), on_error="skip"))


@pytest.mark.parametrize(("status", "error"), [(403, forebay.PermissionError), (404, forebay.NotFoundError)])
def test_skip_does_not_cover_the_origin(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader, status: int, error: type[Exception]
) -> None:
    http.answer = fail(status)
    with pytest.raises(error):
        samples_of(open_loader(f"{http.url}/{dataset.paths[0].name}", on_error="skip"))


def raw_header(name: bytes, size: bytes) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108] = b"0000644\0"
    header[124 : 124 + len(size)] = size
    header[136:148] = b"00000000000\0"
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def base_256(size: int) -> bytes:
    """A size as GNU tar writes one that octal digits have no room for."""
    return b"\x80" + size.to_bytes(11, "big")


def test_a_truncated_shard_says_where(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    data = dataset.paths[0].read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(forebay.DataError, match=r"cut\.tar.*byte \d+") as caught:
        samples_of(open_loader(path))
    assert caught.value.offset


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(raw_header(b"a.cls", base_256(2**63)), id="claims 2^63 bytes"),
        pytest.param(raw_header(b"a.cls", base_256(2**63 - 1)), id="claims 2^63 - 1 bytes"),
        pytest.param(b"this is no tar" * 100, id="no tar"),
        pytest.param(raw_header(b"a.cls", b"zzzzzzzzzzz\0"), id="a size that is no number"),
    ],
)
def test_a_shard_that_is_none(open_loader: OpenLoader, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(forebay.DataError, match=r"bad\.tar"):
        samples_of(open_loader(path))


def test_an_empty_shard_and_an_empty_dataset(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    for sources in ([empty], tmp_path / "nothing-*.tar"):
        with pytest.raises(forebay.Error) as caught:
            samples_of(open_loader(sources))
        assert isinstance(caught.value, (forebay.DataError, forebay.NotFoundError))


@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_without_samples(write: Write, open_loader: OpenLoader, shuffle: bool) -> None:
    without = [write({}, "ended.tar"), write({"README": b"no dot", ".hidden.cls": b"1"}, "others.tar")]
    paths = [without[0], write({"a.cls": b"7"}, "one.tar"), without[1]]
    batch = next(iter(open_loader(paths, shuffle=shuffle)))
    assert (labels_of(batch), batch.samples[: batch.valid]) == ([7], [(1, 0)])
    with pytest.raises(forebay.DataError, match="no samples"):
        samples_of(open_loader(without, shuffle=shuffle))


def strange_names(tmp_path: Path, contents: list[bytes]) -> Path:
    """A shard of names that are no text: in a header's field, where NUL ends a name, and in a pax record; each with a content."""
    path = tmp_path / "names.tar"
    in_fields = zip([b"nul\0rest.cls", b"\xff\xfe.cls", b"cut.cls\0rest"], [b"?", *contents], strict=False)
    blocks = [raw_header(name, b"%011o\0" % len(content)) + content.ljust(512, b"\0") for name, content in in_fields]
    path.write_bytes(b"".join(blocks))
    in_records = [{"path": "p\0q.cls"}, {"path": os.fsdecode(b"\xfe\xff.cls")}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for headers, content in zip(in_records, contents[2:], strict=True):
            info = tarfile.TarInfo("short")
            info.pax_headers, info.size = headers, len(content)
            tar.addfile(info, io.BytesIO(content))
    with path.open("ab") as file:
        file.write(archive.getvalue())
    return path


def test_names_that_are_no_text_are_only_names(open_loader: OpenLoader, tmp_path: Path) -> None:
    loader = open_loader(strange_names(tmp_path, [b"0", b"1", b"2", b"3"]))
    assert [label for batch in loader for label in labels_of(batch)] == [0, 1, 2, 3], "what has no dot is no sample"


@pytest.mark.parametrize(
    ("bad", "name"), list(enumerate(["\ufffd\ufffd.cls", "cut.cls", "p\0q.cls", "\ufffd\ufffd.cls"]))
)
def test_a_name_that_is_no_text_is_shown(open_loader: OpenLoader, tmp_path: Path, bad: int, name: str) -> None:
    contents = [b"x" if at == bad else b"1" for at in range(4)]
    with pytest.raises(forebay.DataError) as caught:
        samples_of(open_loader(strange_names(tmp_path, contents)))
    assert caught.value.member == name
    assert str(caught.value).isprintable()


def test_strange_names_are_only_names(write: Write, open_loader: OpenLoader, tmp_path: Path) -> None:
    names = ["../up.cls", "/abs.cls", "a" * 200 + "/" + "b" * 90 + ".cls", "ü/ö.cls"]
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    path = tmp_path / "names.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for index, name in enumerate([*names, "long/" + "x" * 10_000 + ".cls"]):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(str(index).encode()))
    labels = [label for batch in open_loader(path) for label in np.asarray(batch["label"])[: batch.valid].tolist()]
    assert labels == [0, 1, 2, 3, 4]
    after = {each for each in tmp_path.rglob("*") if not each.is_relative_to(tmp_path / "cache")}
    assert after - before - {tmp_path / "cache"} == {path}, "nothing was written outside of the cache folder"


def test_a_flipped_bit_in_the_cache_is_fetched_again(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    fields = {"jpg": forebay.Bytes("jpg")}
    loader = open_loader(dataset.urls, fields=fields)
    samples_of(loader)
    loader.close()
    del loader
    blocks = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    flipped = 0
    for path in blocks:
        if b"ustar" not in (data := bytearray(path.read_bytes())):
            continue  # not a shard's bytes
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        flipped += 1
    assert flipped
    for batch in open_loader(dataset.urls, fields=fields):
        for row, place in enumerate(batch.samples[: batch.valid]):
            assert batch["jpg"][row] == dataset.at(place).jpg


def test_limits_that_are_too_small_say_what_would_do(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    for arguments in ({"cache_limit": "1MB"}, {"host_memory_limit": "1MB"}):
        name = next(iter(arguments))
        with pytest.raises(forebay.ConfigError, match=rf"{name}.*least") as caught:
            samples_of(open_loader(dataset.urls, shuffle=True, cache_dir=tmp_path / name, **arguments))
        assert any(character.isdigit() for character in str(caught.value))


def test_a_cache_folder_that_is_a_file(dataset: Dataset, open_loader: OpenLoader, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(forebay.CacheError, match="file"):
        open_loader(dataset.urls, cache_dir=tmp_path / "file")


def test_the_same_key_in_two_shards_is_two_samples(write: Write, open_loader: OpenLoader) -> None:
    paths = [write({"same.cls": label}, name) for name, label in (("a.tar", b"1"), ("b.tar", b"2"))]
    batch: Any = next(iter(open_loader(paths)))
    assert np.asarray(batch["label"]).tolist()[: batch.valid] == [1, 2]
