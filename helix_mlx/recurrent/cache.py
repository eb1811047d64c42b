"""mlx-lm's cache protocol for a recurrent layer: its arrays are read and written by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from helix_mlx.recurrent.records import Record, ScanRecord, WindowRecord
from helix_mlx.recurrent.scans import Arguments, Scan


class RecurrentCache(ArraysCache):
    """One layer of `RecurrentStates`, for one pass. No row of it is padding, so it has no mask.

    Some layers ask whether they have an ArraysCache.

    Args:
        arrays: the layer's, changed by what the layer writes.
        fresh: for each sequence, whether its arrays are zeros in the place of nothing.
        records: of the arrays, where the rows of the pass may be taken back; else None.
    """

    def __init__(
        self, arrays: list[mx.array | None], fresh: Sequence[bool], records: dict[int, Record] | None = None
    ) -> None:
        super().__init__(len(arrays))
        self.cache: list[Any] = arrays
        self.fresh = fresh
        self.records = records

    def __len__(self) -> int:
        return len(self.cache)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self.cache)))

    def __getitem__(self, index: int) -> Any:
        array = self.cache[index]
        return array if self.records is None else StateRef(self, index)

    def make_mask(self, N: int) -> None:  # noqa: N803
        """No row is padding."""


@dataclass(frozen=True)
class StateRef:
    """Stands for an array of a state whose rows are recorded, until a function that knows it takes it."""

    cache: RecurrentCache
    index: int

    @property
    def array(self) -> mx.array | None:
        """What it stands for."""
        return self.cache.cache[self.index]

    def extended(self, rows: mx.array, axis: int) -> mx.array:
        """The inputs of a short convolution: those before, and those of the pass's rows."""
        array, records = self.array, self.cache.records
        assert array is not None
        assert records is not None
        record = records.setdefault(self.index, WindowRecord(array, axis % array.ndim))
        assert isinstance(record, WindowRecord)
        return record.extended(array, rows)

    def scanned(self, scan: Scan, arguments: Arguments) -> tuple[mx.array, mx.array]:
        """The outputs and the state of a scan over the pass's rows."""
        array, records = self.array, self.cache.records
        assert array is not None
        assert records is not None
        record = records.setdefault(self.index, ScanRecord(array, scan))
        assert isinstance(record, ScanRecord)
        record.calls.append(arguments)
        return scan(arguments, array)
