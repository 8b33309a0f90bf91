"""What really ran, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from forebay._sizes import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIERS = ("gpu", "decoded", "memory", "nvme", "origin")
_STAGES = ("index", "memory", "read", "decode", "assemble", "device")


class Stats:
    """A loader's account since it was opened; counters only grow, so `after.since(before)` is what lies between."""

    batches: int
    """Batches handed out."""
    samples: int
    """Samples in them, padding not counted."""
    samples_by_tier: dict[str, int]
    """By the farthest tier that any of their bytes came from: "gpu" and "decoded" (decoded samples on the device and in host
    memory), "memory", "nvme", "origin"."""
    bytes_by_tier: dict[str, int]
    """By the tier that they came from: bytes of members, and of decoded samples."""
    fetched_bytes: int
    """Bytes that the folder's cache in this process got from the origin for anybody: passes that count samples included."""
    decoded_samples: int
    """Samples that stay decoded in host memory, as it is now."""
    decoded_bytes: int
    """Bytes that they take of `decoded_limit`."""
    hit_rate: float
    """Bytes not fetched from the origin, as a part of all."""
    stall_seconds: dict[str, float]
    """How long the consumer waited, by the stage it waited for: "index", "memory", "read", "decode", "assemble", and "device"
    where the device's memory was full."""
    decode_seconds: float
    """CPU time spent in decoding."""
    skipped: int
    """Samples skipped for an error."""
    errors: list[str]
    """The first of those errors' texts, at most 100."""
    io_engine: str
    """"io_uring" or "blocking"."""
    io_mode: str
    """"direct" or "buffered"."""
    simd: str
    """The widest SIMD level in use."""
    threads: int
    """Decoding threads."""
    role: str
    """"owner" or "client" of the cache folder."""
    host_memory_bytes: int
    """Host memory in use by all stages."""
    host_memory_peak_bytes: int
    """The most that was ever in use at once."""
    offline: bool
    """True where the origin doesn't answer and cached bytes are served."""

    notes: list[str]
    """What was announced, each thing once."""
    device: dict[str, Any] | None
    """The device and what it did, where batches go to one: "name", "uuid", "pci", "capability" ("9.0"), "driver" (the newest
    CUDA that it knows: "12.4"), "total_bytes" and "free_bytes" of its memory (free now, other programs counted; None where
    the driver doesn't say), "copy_path" ("pinned" or "pageable"), "memory" (how it was had: "virtual memory" or
    "cuMemAlloc"), "copied_bytes" from host to device, "limit_bytes", "used_bytes" and "peak_bytes" of the loader's memory
    there; "decoded_samples" that stay there, in "decoded_bytes" of "decoded_limit_bytes", and "decoded_copied_bytes" that were
    copied for them besides; "jpeg": where images are decoded ("on"), "why", by which "library", how many "images" of how many
    "compressed_bytes", and those "refused"."""
    cache: dict[str, Any]
    """The cache's own counters, as they are now; shared by all loaders of the folder in this process."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    @classmethod
    def _from_json(cls, text: str) -> Stats:
        import json

        values = json.loads(text)
        values["stall_seconds"] = {stage: _seconds(wait) for stage, wait in values.pop("stall").items()}
        values["decode_seconds"] = _seconds(values.pop("decode_time"))
        values["fetched_bytes"] = values["cache"]["origin_bytes"]
        for name, keys in (("samples_by_tier", _TIERS), ("bytes_by_tier", _TIERS), ("stall_seconds", _STAGES)):
            values[name] = {**dict.fromkeys(keys, 0), **values[name]}
        return cls(values)

    def since(self, before: Stats) -> Stats:
        """What was added since `before`; what is no counter is as it is now."""
        values = self.as_dict()
        for name in ("batches", "samples", "fetched_bytes", "decode_seconds", "skipped"):
            values[name] -= getattr(before, name)
        for name in ("samples_by_tier", "bytes_by_tier", "stall_seconds"):
            was = getattr(before, name)
            values[name] = {key: value - was.get(key, 0) for key, value in values[name].items()}
        values["errors"] = self.errors[len(before.errors) :]
        total = sum(values["bytes_by_tier"].values())
        values["hit_rate"] = 1 - values["bytes_by_tier"]["origin"] / total if total else 0.0
        return Stats(values)

    def as_dict(self) -> dict[str, Any]:
        """The numbers, as plain values."""
        return dict(self.__dict__)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def keys(self) -> Iterator[str]:
        """The names; with `[]`, what `dict(stats)` needs."""
        return iter(self.__dict__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stats) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def _rows(self) -> list[tuple[str, str]]:
        tiers = [
            (f"from {tier}", f"{self.samples_by_tier[tier]:,} samples, {show(self.bytes_by_tier[tier])}")
            for tier in self.bytes_by_tier
        ]
        kept = []
        if self.decoded_samples:
            kept = [("kept decoded", f"{self.decoded_samples:,} samples, {show(self.decoded_bytes)}")]
        stalls = ", ".join(f"{stage} {wait:.2f} s" for stage, wait in self.stall_seconds.items())
        rows = [
            ("delivered", f"{self.samples:,} samples in {self.batches:,} batches"),
            *tiers,
            *kept,
            ("fetched", f"{show(self.fetched_bytes)} from the origin, hit rate {self.hit_rate:.1%}"),
            ("stalled for", stalls),
            ("decoding", f"{self.decode_seconds:.2f} s of CPU on {self.threads} threads, SIMD {self.simd}"),
            ("cache", f"{self.role}, {self.io_engine}, {self.io_mode}{', origin offline' if self.offline else ''}"),
            ("host memory", f"{show(self.host_memory_bytes)}, at most {show(self.host_memory_peak_bytes)}"),
            ("skipped", f"{self.skipped:,}"),
        ]
        if device := self.device:
            copied, used, limit = (show(device[f"{what}_bytes"]) for what in ("copied", "used", "limit"))
            what = f"{device['name']}: {copied} copied ({device['copy_path']}), {used} of {limit} used"
            rows.append(("device", what))
            if device["decoded_limit_bytes"]:
                there = f"{device['decoded_samples']:,} samples, {show(device['decoded_bytes'])}"
                rows.append(("", f"{there} of {show(device['decoded_limit_bytes'])} decoded samples stay there"))
        return rows + [("", error) for error in self.errors[:5]]

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table>{cells}</table>"


def _seconds(duration: dict[str, int]) -> float:
    """Rust's Duration as JSON."""
    return duration["secs"] + duration["nanos"] / 1e9
