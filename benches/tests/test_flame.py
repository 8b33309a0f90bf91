"""Stacks that perf prints, as a flame graph."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml

from harness import flame

SCRIPT = """\
forebay-decode-  4711
\tffffffff81c3fa21 copy_page+0x31 ([kernel.kallsyms])
\t           77007 forebay_loader::decode::Open<T>::decode::h0123456789abcdef+0x127 (/x/_forebay.abi3.so)
\t           86000 start_thread (/usr/lib/libc.so.6)

forebay-decode-  4711
\t           77007 jpeg_read_scanlines (/x/_forebay.abi3.so)
\t           86000 start_thread (/usr/lib/libc.so.6)

tokio rt 1  4712/4713
\t    69622f6f672f [unknown] (/x/lib one.so)

python  4714
"""


# perf ends a sample's head with a space.
SCRIPT = re.sub(r"^(\S.*)$", r"\1 ", SCRIPT, flags=re.MULTILINE)


def test_stacks_are_folded_by_thread_and_caller() -> None:
    root = flame.fold(SCRIPT.splitlines(keepends=True))
    assert root.samples == 4
    assert {name: frame.samples for name, frame in root.callees.items()} == {
        "forebay-decode-": 2,
        "tokio rt 1": 1,
        "python": 1,
    }
    start = root.callees["forebay-decode-"].callees["start_thread"]
    assert start.callees.keys() == {"forebay_loader::decode::Open<T>::decode", "jpeg_read_scanlines"}
    assert "copy_page [kernel]" in start.callees["forebay_loader::decode::Open<T>::decode"].callees
    assert root.callees["tokio rt 1"].callees.keys() == {"[lib one.so]"}


def test_widths_are_parts_of_all_samples_and_names_are_escaped() -> None:
    root = flame.fold(SCRIPT.splitlines())
    picture = xml.fromstring(flame.svg(root, "A title with < and &"))
    name = "{http://www.w3.org/2000/svg}"
    frames = {
        (group.findtext(f"{name}title") or "").partition(": ")[0]: float(group.find(f"{name}rect").get("width", "0"))  # type: ignore[union-attr]
        for group in picture.iter(f"{name}g")
    }
    assert frames["all"] == flame.WIDTH
    assert frames["forebay-decode-"] == frames["start_thread"] == flame.WIDTH / 2
    assert frames["jpeg_read_scanlines"] == flame.WIDTH / 4
    assert any("Open<T>" in text for text in picture.itertext())


def test_no_samples_make_an_empty_picture() -> None:
    xml.fromstring(flame.svg(flame.fold([]), "Nothing"))
