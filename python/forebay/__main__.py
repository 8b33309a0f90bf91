"""The program ``forebay``: ``python -m forebay``, and the console script."""

import sys

from forebay import _forebay
from forebay._loader import jpeg_folders


def main() -> int:
    """Runs the program with this process's arguments and returns its exit code."""
    return _forebay.main(["forebay", *sys.argv[1:]], jpeg_folders())


if __name__ == "__main__":
    sys.exit(main())
