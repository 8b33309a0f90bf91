"""Sizes as people write them."""

from __future__ import annotations

from forebay._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _UNITS[_letter] = _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power


def parse(what: str, size: Any) -> int:
    """Bytes: 20_000_000_000, "20GB" (10⁹ each) or "500GiB" (2³⁰ each)."""
    if isinstance(size, int) and not isinstance(size, bool):
        number: float = size
    else:
        number = _parse_text(size) if isinstance(size, str) else -1
    if not 0 <= number < 2**63:
        raise ConfigError(f'{what}={size!r}: give bytes as a number, or a size such as "20GB" or "500GiB"')
    if number < 1:
        raise ConfigError(f'{what}={size!r} leaves nothing to work with; give a size such as "2GB"')
    return int(number)


def _parse_text(text: str) -> float:
    compact = "".join(text.split()).replace("_", "").upper()
    digits = compact.rstrip("BKMGTPI")
    try:
        return float(digits) * _UNITS[compact[len(digits) :]]
    except (ValueError, KeyError, OverflowError):
        return -1


def show(size: float) -> str:
    """Bytes for people: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 99.5 else f"{size:.1f} {unit}"
