"""Checks that every dependency has a licence of tools/licences.txt.

Without arguments: the crates of Cargo.lock. With --requirements FILE...: the Python packages that these files pin, as
installed beside this interpreter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ALLOWED = {
    line.strip().lower()
    for line in Path(__file__).with_name("licences.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}
# What packages wrote before SPDX expressions.
OLD_NAMES = {
    "mit license": "mit",
    "apache license 2.0": "apache-2.0",
    "apache software license": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "bsd license": "bsd-3-clause",
    "bsd": "bsd-3-clause",
    "python software foundation license": "psf-2.0",
    "license agreement for matplotlib": "psf-2.0",
}

# Titles of licences' texts.
KNOWN_TEXTS = {"Apache License Version 2.0,": "apache-2.0", "MIT License": "mit"}


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences."""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    parts: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word.upper() in ("AND", "OR") or word in "()":
            parts.append(word.lower())
        else:
            if at + 2 < len(words) and words[at + 1].upper() == "WITH":
                word = f"{word} WITH {words[at + 2]}"
                at += 2
            parts.append(str(word.lower() in ALLOWED))
        at += 1
    try:
        # Only True, False, and, or and brackets are left.
        return bool(eval(" ".join(parts)))
    except SyntaxError:
        return False


def crates() -> list[tuple[str, str]]:
    """(name, licence) of every crate that is not of this workspace."""
    command = [
        "cargo",
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    used = {node["id"] for node in answer["resolve"]["nodes"]}
    return [
        (f"{crate['name']} {crate['version']}", crate["license"] or f"file {crate['license_file']}")
        for crate in answer["packages"]
        if crate["source"] and crate["id"] in used
    ]


def packages(files: list[str]) -> list[tuple[str, str]]:
    """(name, licence) of every package that these files pin and that is installed."""
    found = []
    for name in re.findall(r"^([\w.-]+)==", "".join(Path(file).read_text() for file in files), re.MULTILINE):
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        classified = [
            line.split("::")[-1].strip() for line in about.get_all("Classifier") or [] if "License ::" in line
        ]
        stated = (about.get("License-Expression") or "").strip()
        first_line = (about.get("License") or "").strip().split("\n")[0]
        candidates = [stated] if stated else [*classified, first_line]
        named = [OLD_NAMES.get(text.lower(), text) for text in candidates if text] or texts(name)
        found.append((name, next((text for text in named if allowed(text)), " / ".join(named) or "none stated")))
    return sorted(set(found))


def texts(name: str) -> list[str]:
    """Licences that a package brings as files without naming them, as far as their first lines are known."""
    files = [file for file in metadata.files(name) or [] if file.name.upper().startswith(("LICENSE", "LICENCE"))]
    # A line on whose it is may stand in front.
    begins = [" ".join(file.read_text().split()[:20]) for file in files]
    return [known for title, known in KNOWN_TEXTS.items() for text in begins if title in text]


def main() -> int:
    files = sys.argv[2:] if sys.argv[1:2] == ["--requirements"] else []
    found = packages(files) if files else crates()
    refused = [(name, licence) for name, licence in found if not allowed(licence)]
    for name, licence in refused:
        print(f"{name}: its licence, {licence}, is not in tools/licences.txt", file=sys.stderr)
    print(f"{len(found) - len(refused)} of {len(found)} licences are allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
