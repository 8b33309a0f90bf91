"""Headless Chromium: what it makes of a page, what it asks the network for, and a picture.

python -m harness.browser FOLDER PICTURE.png     a folder of results in one picture
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import results
from .page.overview import html

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: it can't be had as root. Nothing of Chromium's own may speak to the network.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
LONGEST_SECONDS = 120
# The initiator of a request that is no page's.
CHROMIUM = "not an origin"
# Of an overview, in pixels.
WIDTH, MARGIN, COLOURS = 1440, 24, 96


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def dom(page: Path) -> str:
    """The document once it is loaded, with what its scripts have changed."""
    return _run(page, ["--dump-dom"])


def requests(page: Path) -> list[str]:
    """Everything that the page asks for and that is not on this machine. What Chromium asks for on its own behalf, which its
    flags don't all end, has no origin. No name resolves, so nothing leaves."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        _run(page, [f"--log-net-log={log}", "--dump-dom"])
        text = log.read_text()
    try:
        content = json.loads(text)
    except ValueError:  # Chromium ended before it had closed the list.
        content = json.loads(text.rstrip().rstrip(",") + "]}")
    asked = (event.get("params", {}) for event in content["events"])
    found = {entry["url"] for entry in asked if entry.get("initiator", CHROMIUM) != CHROMIUM and "url" in entry}
    return sorted(url for url in found if not url.startswith(("file:", "data:")))


def picture(page: Path, file: Path, width: int = 1040, height: int = 2300, dark: bool = False) -> None:
    more = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(page, [f"--window-size={width},{height}", f"--screenshot={file}", *more])
    if not file.exists():
        raise RuntimeError(f"Chromium made no picture of {page}")


def _run(page: Path, flags: list[str]) -> str:
    program = find()
    if program is None:
        raise FileNotFoundError("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [program, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()],
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def overview(folder: Path, file: Path) -> None:
    """What a run promised and reached, with plots, in as few bytes as show it: cut to its contents, in COLOURS colours."""
    from PIL import Image, ImageChops

    with tempfile.TemporaryDirectory() as home:
        page, whole = Path(home) / "overview.html", Path(home) / "whole.png"
        page.write_text(html(results.read(folder)))
        picture(page, whole, WIDTH, 3 * WIDTH)
        with Image.open(whole) as image:
            pixels = image.convert("RGB")
    ground = Image.new("RGB", pixels.size, pixels.getpixel((0, 0)))
    seen = ImageChops.difference(pixels, ground).getbbox() or (0, 0, 1, 1)
    cut = pixels.crop((0, 0, WIDTH, seen[3] + MARGIN))
    cut.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    overview(Path(arguments[0]), Path(arguments[1]).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
