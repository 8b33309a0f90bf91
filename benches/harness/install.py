"""Installs what the peers need, and remembers what could not be: that peer is shown as failed, and the others go on.

python -m harness.install [--dependencies] FILE...

Packages that belong together stand together in a requirements file, apart from the others by an empty line; they are installed,
or fail, together. `--dependencies`: with what they ask for themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

NOTES = Path(sys.prefix) / "not-installed.json"


def groups(text: str) -> list[list[str]]:
    """The requirements that stand together."""
    paragraphs = [
        [line.partition("#")[0].strip() for line in paragraph.splitlines()] for paragraph in text.split("\n\n")
    ]
    return [lines for paragraph in paragraphs if (lines := [line for line in paragraph if line])]


def install(group: list[str], options: list[str]) -> str | None:
    """Why these can't be installed; None where they were."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, *group]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return reason(process.stdout) if process.returncode else None


def reason(output: str) -> str:
    """The line of pip's output that says most: the exception of a package's own build, or pip's last error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern in (r"[A-Z]\w*(Error|Exception): ", r"(?i)error: "):
        found = [line for line in lines if re.match(pattern, line)]
        if found:
            return found[-1]
    return lines[-1] if lines else "pip says nothing"


def refused(package: str, notes: Path = NOTES) -> str | None:
    """Why this package could not be installed in this environment; None where it was, or was never asked for."""
    if not notes.exists():
        return None
    why: str | None = json.loads(notes.read_text()).get(package)
    return why


def main(arguments: list[str], notes: Path = NOTES) -> int:
    options = [] if "--dependencies" in arguments else ["--no-deps"]
    failed: dict[str, str] = json.loads(notes.read_text()) if notes.exists() else {}
    wanted = [group for name in arguments if not name.startswith("-") for group in groups(Path(name).read_text())]
    good = 0
    for group in wanted:
        why = install(group, options)
        if why is None:
            good += 1
            continue
        print(f"not installed: {', '.join(group)}: {why}", file=sys.stderr)
        failed |= {re.split(r"[^\w.-]", line)[0]: why for line in group}
    notes.write_text(json.dumps(failed, indent=1) + "\n")
    if wanted and not good:
        print("nothing could be installed: is the package index within reach?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
