"""Files that aren't what they claim to be, and odd ones that are right: safetensors and ours open the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forebay.weights
import forebay.weights.numpy
import pytest
import safetensors
from differential import Outcome, assert_same, outcome
from written import entry, raw

GOOD = {"a": entry()}
TEXT = json.dumps(GOOD)
FILES: dict[str, tuple[Any, bytes]] = {
    # The header's length.
    "a length of 0": ("", b""),
    "no header": ({}, b""),
    # Its text.
    "no UTF-8": (b'{"a\xff":1}', b""),
    "no UTF-8 in a name": (b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "half a surrogate in a name": ('{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "no JSON": ("{nope}", b""),
    "JSON cut short": ('{"a":', b""),
    "a list": ([], b""),
    "null": ("null", b""),
    "a string": ('"a"', b""),
    "NaN": ('{"__metadata__":{"a":NaN}}', b""),
    "lists in lists": ('{"a":' + "[" * 100_000, b""),
    "text behind the header": (TEXT + "x", bytes(8)),
    "a zero behind the header": (TEXT + "\0", bytes(8)),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), bytes(8)),
    "spaces behind the header": (TEXT + "   ", bytes(8)),
    "a line's end behind the header": (TEXT + "\n", bytes(8)),
    # Offsets.
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "the same bytes": ({"a": entry(), "b": entry()}, bytes(8)),
    "a hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "a hole before the first": ({"a": entry(offsets=(4, 12))}, bytes(12)),
    "a byte behind the last": (GOOD, bytes(9)),
    "bytes behind an empty header": ({}, b"x"),
    "cut short": (GOOD, bytes(7)),
    "cut in the middle": ({"a": entry(), "b": entry(offsets=(8, 16))}, bytes(9)),
    "no bytes": (GOOD, b""),
    "an end before its start": ({"a": entry(offsets=(8, 0))}, bytes(8)),
    "a negative offset": ({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "fewer bytes than the shape takes": ({"a": entry(offsets=(0, 4))}, bytes(4)),
    "more bytes than the shape takes": ({"a": entry(offsets=(0, 12))}, bytes(12)),
    "a fraction as an offset": ({"a": entry(offsets=(0, 8.0))}, bytes(8)),
    "an exponent in an offset": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8e0]}}', bytes(8)),
    "minus zero as an offset": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', bytes(8)),
    "one offset": ({"a": entry(offsets=(0,))}, bytes(8)),
    "three offsets": ({"a": entry(offsets=(0, 8, 9))}, bytes(8)),
    "an offset over 64 bits": ({"a": entry(offsets=(0, 2**64))}, bytes(8)),
    "an offset of 63 bits": ({"a": entry(offsets=(0, 2**63))}, bytes(8)),
    "strings as offsets": ({"a": entry(offsets=("0", "8"))}, bytes(8)),
    "no bytes, outside": ({"a": entry(), "z": entry(shape=(0,), offsets=(12, 12))}, bytes(8)),
    "no bytes, inside another": ({"a": entry(), "z": entry(shape=(0,), offsets=(4, 4))}, bytes(8)),
    # Types and shapes.
    "an unknown type": ({"a": entry("F33")}, bytes(8)),
    "a type in small letters": ({"a": entry("f32")}, bytes(8)),
    "a number as a type": ({"a": entry(5)}, bytes(8)),
    "no type": ({"a": entry(None)}, bytes(8)),
    "a shape over 64 bits": ({"a": entry(shape=(2**64,))}, bytes(8)),
    "a shape whose product is over 64 bits": ({"a": entry(shape=(2**40, 2**40))}, bytes(8)),
    "a shape whose product is 0 in 64 bits": ({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}, b""),
    "a shape of a zero behind an overflow": ({"a": entry(shape=(2**32, 2**32, 0), offsets=(0, 0))}, b""),
    "a size over 64 bits": ({"a": entry(shape=(2**62,), offsets=(0, 0))}, b""),
    "a size whose bits are over 64 bits": ({"a": entry(shape=(2**59,))}, bytes(8)),
    "a negative size": ({"a": entry(shape=(-2,))}, bytes(8)),
    "a fraction as a size": ({"a": entry(shape=(2.0,))}, bytes(8)),
    "null as a shape": ({"a": entry(shape=None)}, bytes(8)),
    "4-bit numbers that end inside a byte": ({"a": entry("F4", (3,), (0, 2))}, bytes(2)),
    "a 4-bit scalar": ({"a": entry("F4", (), (0, 1))}, bytes(1)),
    "6-bit numbers that end inside a byte": ({"a": entry("F6_E2M3", (3,), (0, 3))}, bytes(3)),
    # Entries.
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "null as an entry": ({"a": None}, b""),
    "a key of an entry twice": ('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "an unknown key of an entry": ({"a": {**entry(), "more": 1}}, bytes(8)),
    # Metadata.
    "a number in the metadata": ({"__metadata__": {"a": 1}}, b""),
    "an object in the metadata": ({"__metadata__": {"a": {}}}, b""),
    "null in the metadata": ({"__metadata__": {"a": None}}, b""),
    "a list as metadata": ({"__metadata__": []}, b""),
    "no metadata at all": ({"__metadata__": {}}, b""),
    "null as metadata": ({"__metadata__": None}, b""),
    "metadata twice": ('{"__metadata__":{"a":"b"},"__metadata__":{"c":"d"}}', b""),
    # Odd and right.
    "no name": ({"": entry()}, bytes(8)),
    "a zero in a name": ({"a\0b": entry()}, bytes(8)),
    "a name beyond ASCII": ({"größe😀": entry()}, bytes(8)),
    "booleans that are neither 0 nor 1": ({"a": entry("BOOL", (2,), (0, 2))}, b"\x02\xff"),
    "entries in another order": ({"b": entry(offsets=(8, 16)), "a": entry()}, bytes(range(16))),
    "no bytes between two": (
        {"a": entry(), "z": entry(shape=(0,), offsets=(8, 8)), "b": entry(offsets=(8, 16))},
        bytes(16),
    ),
    "no bytes at all": ({"z": entry(shape=(0,), offsets=(0, 0))}, b""),
    "a zero before what 32 bits don't hold": ({"a": entry(shape=(0, 2**20, 2**20), offsets=(0, 0))}, b""),
    "a hundred dimensions": ({"a": entry(shape=(1,) * 100, offsets=(0, 4))}, bytes(4)),
}


def everything(safe_open: Any, path: Path) -> Any:
    """All that can be read from a file for torch."""
    with safe_open(path, "pt") as opened:
        names = opened.keys()
        return {
            "names": (names, sorted(opened.offset_keys()), opened.metadata()),
            "shapes": [(opened.get_slice(name).get_shape(), opened.get_slice(name).get_dtype()) for name in names],
            **opened.get_tensors(),
        }


@pytest.mark.parametrize("name", FILES)
def test_the_same_files_are_refused(tmp_path: Path, name: str) -> None:
    header, data = FILES[name]
    path = raw(tmp_path / "model.safetensors", header, data)
    theirs = outcome(lambda: everything(safetensors.safe_open, path))
    assert_same(outcome(lambda: everything(forebay.weights.safe_open, path)), theirs, name)
    if isinstance(theirs.error, safetensors.SafetensorError):
        for load in (forebay.weights.load_file, forebay.weights.numpy.load_file):
            assert_same(outcome(lambda load=load: load(path)), theirs, name)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_files_that_end_in_their_header(tmp_path: Path, size: int) -> None:
    path = raw(tmp_path / "model.safetensors", GOOD, bytes(8))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "pt")
    with pytest.raises(forebay.weights.SafetensorError) as caught:
        forebay.weights.safe_open(path, "pt")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [len(TEXT) + 1, len(TEXT) + 9, 100_000_001, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])
def test_lengths_that_leave_the_file(tmp_path: Path, length: int) -> None:
    path = raw(tmp_path / "model.safetensors", TEXT, bytes(8), length=length)
    for safe_open in (safetensors.safe_open, forebay.weights.safe_open):
        with pytest.raises(safetensors.SafetensorError):
            safe_open(path, "pt")


def test_a_header_of_more_than_100_mb(tmp_path: Path) -> None:
    path = raw(tmp_path / "model.safetensors", TEXT, bytes(8), length=100_000_001)
    with path.open("r+b") as file:
        file.truncate(100_000_001 + 16)
    for safe_open in (safetensors.safe_open, forebay.weights.safe_open):
        with pytest.raises(safetensors.SafetensorError, match="header too large"):
            safe_open(path, "pt")


@pytest.mark.parametrize("cut", range(len(TEXT) + 8))
def test_a_file_cut_anywhere(tmp_path: Path, cut: int) -> None:
    path = raw(tmp_path / "model.safetensors", GOOD, bytes(8))
    path.write_bytes(path.read_bytes()[: cut + 8])
    theirs = outcome(lambda: everything(safetensors.safe_open, path))
    assert theirs.error is not None
    assert_same(outcome(lambda: everything(forebay.weights.safe_open, path)), theirs, f"{cut} bytes")


def test_every_byte_of_a_header_changed(tmp_path: Path) -> None:
    """What one wrong byte makes of a header: both refuse it, or both read the same."""
    whole = raw(
        tmp_path / "model.safetensors", {"a": entry(), "__metadata__": {"format": "pt"}}, bytes(range(8))
    ).read_bytes()
    path = tmp_path / "changed.safetensors"
    for at in range(len(whole) - 8):
        for byte in (0, ord("0"), ord('"'), ord(" "), 0x7F, 0xFF):
            path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            theirs = outcome(lambda: everything(safetensors.safe_open, path))
            assert_same(outcome(lambda: everything(forebay.weights.safe_open, path)), theirs, f"byte {at} is {byte}")


def test_whole_is_told_from_whole() -> None:
    """The comparison these tests stand on."""
    with pytest.raises(AssertionError):
        assert_same(Outcome({"a": [1]}), Outcome({"a": [2]}), "a list")
    with pytest.raises(AssertionError):
        assert_same(Outcome(error=ValueError()), Outcome(error=safetensors.SafetensorError()), "an error")
