"""Writes tar archives in every format that Python's tarfile knows, with odd names, and lists them as tarfile reads them.

Usage: archives.py FOLDER. Writes NAME.tar and NAME.json: for each member [header offset, data offset, stored size, name in hex,
kind]. Uses the standard library only.
"""

import io
import json
import os
import random
import subprocess
import sys
import tarfile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = [
    b"a.jpg",
    b"train/0001.jpg",
    b"train/0001.cls",
    b"./dot.txt",
    b"../../up.txt",
    b"/absolute/path.txt",
    b"d" * 90 + b"/" + b"n" * 95 + b".txt",
    b"n" * 100,
    b"n" * 99 + b"/",
    "\u00e9t\u00e9/\u4e2d\u6587.jpg".encode(),
    b"\xff\xfe not utf-8.bin",
    b"n" * 101,
    b"x" * 10_000,
    b"deep/" * 300 + b"a.txt",
    b"white space\tand\nlines.txt",
    b"back\\slash.txt",
    b"equals=sign 12 path=x.txt",
]


def text(name):
    return name.decode("utf-8", "surrogateescape")


def write(path, form, seed):
    rng = random.Random(seed)
    with tarfile.open(path, "w", format=form, errors="surrogateescape") as archive:
        for name in NAMES * 2:
            data = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000]))
            info = tarfile.TarInfo(text(name))
            info.size = len(data)
            info.mtime = rng.choice([0, 1_700_000_000, 1_700_000_000.25]) if form == tarfile.PAX_FORMAT else 1
            info.type = rng.choice([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE])
            if info.type == tarfile.AREGTYPE and name[:100].endswith(b"/"):
                # Before POSIX a directory, for which tarfile takes cut names too; it is one only if the whole name ends so.
                info.type = tarfile.REGTYPE
            if form != tarfile.USTAR_FORMAT and rng.random() < 0.3:
                info.uid = 2**40 if form == tarfile.GNU_FORMAT else 2**30
            add(archive, info, data)
            if rng.random() < 0.3:
                other = tarfile.TarInfo(text(name)[:80] + ".other")
                other.type = rng.choice(
                    [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
                )
                other.linkname = "l" * rng.choice([10, 200])
                add(archive, other, b"")


def add(archive, info, data):
    try:
        archive.addfile(info, io.BytesIO(data))
    except ValueError:
        # A name that this format can't hold.
        assert archive.format == tarfile.USTAR_FORMAT


def write_global(path):
    headers = {"comment": "for all that follow", "uname": "someone"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        add(archive, tarfile.TarInfo("a.txt"), b"")


def write_sparse(folder):
    """Archives of GNU tar, where there is one: sparse files in each of its formats."""
    holes = os.path.join(folder, "holes.bin")
    with open(holes, "wb") as file:
        for at in range(0, 40 << 16, 1 << 17):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(50 << 16)
    kinds = {
        "old": ["--format=gnu"],
        "00": ["--format=posix", "--sparse-version=0.0"],
        "01": ["--format=posix", "--sparse-version=0.1"],
        "10": ["--format=posix", "--sparse-version=1.0"],
    }
    for kind, options in kinds.items():
        command = ["tar", "-C", folder, "-Scf", os.path.join(folder, f"sparse-{kind}.tar"), *options, "holes.bin"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            return


def kind(info):
    if info.issparse():
        return "sparse"
    if info.isreg():
        return "file"
    if info.isdir():
        return "directory"
    if info.issym() or info.islnk():
        return "link"
    return "special" if info.isdev() else "other"


def listing(path):
    with tarfile.open(path, "r:", errors="surrogateescape", encoding="utf-8") as archive:
        return [
            [
                info.offset,
                info.offset_data,
                info.size if info.isreg() else 0,
                info.name.encode("utf-8", "surrogateescape").hex(),
                kind(info),
            ]
            for info in archive
        ]


def main():
    folder = sys.argv[1]
    for name, form in FORMATS.items():
        for seed in range(5):
            write(os.path.join(folder, f"{name}-{seed}.tar"), form, seed)
    write_global(os.path.join(folder, "global.tar"))
    write_sparse(folder)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".tar"):
            path = os.path.join(folder, name)
            with open(path[:-4] + ".json", "w") as file:
                json.dump(listing(path), file)


if __name__ == "__main__":
    main()
