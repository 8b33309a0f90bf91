"""One batch of one rank."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Columns = dict[str, Any]
else:
    Columns = dict


class Batch(Columns):
    """Columns by field name, in the order of `fields=`: arrays, or lists for Text, Json, Bytes and ragged fields.

    A batch owns its memory: it stays as it is for as long as any of its arrays, or anything made from them without a copy,
    is alive, also after the loader was closed.
    """

    __slots__ = ("epoch", "index", "samples", "valid")

    epoch: int
    """The epoch it belongs to."""
    index: int
    """Its number in the epoch, from 0, the same on every rank."""
    valid: int
    """Rows that are real. The rows behind them pad the last batch of an epoch (drop_last=False)."""
    samples: list[tuple[int, int]]
    """Of each row: the shard's number in the order of the sources, and the sample's number in the shard."""

    def __init__(
        self, columns: dict[str, Any], epoch: int, index: int, valid: int, samples: list[tuple[int, int]]
    ) -> None:
        super().__init__(columns)
        self.epoch, self.index, self.valid, self.samples = epoch, index, valid, samples

    def record_stream(self, stream: Any) -> None:
        """Every column's memory on a device is not used again before what is queued on this stream when it is let go; see
        `DeviceArray.record_stream`."""
        for column in self.values():
            if hasattr(column, "record_stream"):
                column.record_stream(stream)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name!r}: {_short(value)}" for name, value in self.items())
        return f"Batch(epoch={self.epoch}, index={self.index}, valid={self.valid}, {{{columns}}})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (dict(self), self.epoch, self.index, self.valid, self.samples)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"<list of {len(value)}>"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return f"<{dtype} {list(shape)}>" if shape is not None else repr(value)
