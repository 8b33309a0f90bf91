"""Writes shards for WebDataset and lists the samples that WebDataset makes of them, and what brace patterns it expands to.

Usage: webdataset_samples.py FOLDER. Needs the package webdataset. Writes NAME.tar and NAME.json: a list of
[key, [[suffix, size], ...]], or a string where WebDataset raises; and patterns.json: [[pattern, [expanded, ...]], ...].
"""

import io
import json
import os
import random
import sys
import tarfile
import warnings

import braceexpand
import webdataset

BASES = [
    "0001",
    "0002",
    "0001",
    "b",
    "d/0001",
    "d.x/0001",
    "d.x/e/2",
    "__meta__",
    "__meta__/x",
    "__c",
    "d/__n__",
    "README",
    "./x",
    "/a/b",
]
SUFFIXES = ["", ".jpg", ".JPG", ".cls", ".seg.png", ".Seg.PNG", ".txt", ".", ".é"]
PIECES = [
    "a",
    "-",
    "{1..3}",
    "{03..1}",
    "{a,b}",
    "{,x}",
    "{a..e..2}",
    "{x}",
    "{}",
    "{1,{2..3},y}",
    "{{a,b}}",
    "\\{",
    "\\,",
    "{-1..1}",
    "{0..4..-2}",
]


def write(path, rng, strict):
    seen, last = set(), None
    with tarfile.open(path, "w", format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as archive:
        for _ in range(rng.randrange(60)):
            base = rng.choice(BASES) if rng.random() < 0.5 or last is None else last
            suffix = rng.choice(SUFFIXES)
            seen = seen if base == last else set()
            last = base
            if strict and suffix.lower() in seen:
                continue
            seen.add(suffix.lower())
            info = tarfile.TarInfo(base + suffix)
            info.type = rng.choice([tarfile.REGTYPE] * 8 + [tarfile.DIRTYPE, tarfile.SYMTYPE])
            info.size = rng.randrange(1000) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(bytes(info.size)))


def samples(path):
    try:
        return [
            [sample["__key__"], [[name, len(data)] for name, data in sample.items() if not name.startswith("__")]]
            for sample in webdataset.WebDataset(path, shardshuffle=False, empty_check=False)
        ]
    except ValueError:
        return "duplicate"


def main():
    warnings.simplefilter("ignore")
    folder = sys.argv[1]
    for seed in range(60):
        rng = random.Random(seed)
        path = os.path.join(folder, f"{seed}.tar")
        write(path, rng, strict=seed % 4 != 0)
        with open(path[:-4] + ".json", "w") as file:
            json.dump(samples(path), file)
    rng = random.Random(0)
    patterns = ["".join(rng.choices(PIECES, k=rng.randrange(1, 4))) for _ in range(300)]
    with open(os.path.join(folder, "patterns.json"), "w") as file:
        json.dump([[f"/{pattern}.tar", list(braceexpand.braceexpand(f"/{pattern}.tar"))] for pattern in patterns], file)


if __name__ == "__main__":
    main()
