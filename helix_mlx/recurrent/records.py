"""What a pass keeps of its rows, so that a state can be advanced by fewer rows than the pass has read.

A record begins with the state before the first of its rows, which may come from several passes (a draft model reads
one row after the other). `advance(kept)` gives the state after the first `kept[b]` rows of each sequence b, with the
bits of reading just these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx

from helix_mlx.kernels.linear_scan import where_kept
from helix_mlx.recurrent.scans import Arguments, Scan


class Record(Protocol):
    """The rows of one array of one layer's state."""

    def advance(self, kept: mx.array) -> mx.array:
        """The state after `kept` [B] int32 rows."""
        ...


@dataclass
class WindowRecord:
    """A state of the last few inputs, as short convolutions have.

    Args:
        base: [B, ...], with the inputs before the first row on `axis`.
        axis: of the rows.
    """

    base: mx.array
    axis: int
    inputs: list[mx.array] = field(default_factory=list)

    def extended(self, before: mx.array, rows: mx.array) -> mx.array:
        """The inputs before a pass, and those of its rows, which are recorded."""
        self.inputs.append(rows)
        return mx.concatenate([before, rows], axis=self.axis)

    def advance(self, kept: mx.array) -> mx.array:
        """See `Record`."""
        held, axis = self.base.shape[self.axis], self.axis
        rows = mx.concatenate([self.base, *self.inputs], axis=axis)
        if rows.shape[0] == 1:
            size = list(rows.shape)
            size[axis] = held
            return mx.slice(rows, kept, (axis,), size)
        index = kept[:, None] + mx.arange(held)[None]
        shape = [1] * rows.ndim
        shape[0], shape[axis] = index.shape
        return mx.take_along_axis(rows, index.reshape(shape), axis=axis)


@dataclass
class ScanRecord:
    """A state that a scan function computes from the inputs of each row.

    Args:
        base: the state before the first row.
        scan: the function.
    """

    base: mx.array
    scan: Scan
    calls: list[Arguments] = field(default_factory=list)

    def advance(self, kept: mx.array) -> mx.array:
        """See `Record`."""
        return self.scan.advance(self.calls, self.base, kept)


@dataclass
class ValueRecord:
    """A state that is known after each row: the fallback for layers that are read row by row.

    Args:
        base: the state before the first row.
    """

    base: mx.array
    values: list[mx.array] = field(default_factory=list)

    def advance(self, kept: mx.array) -> mx.array:
        """See `Record`."""
        state = self.base
        for row, value in enumerate(self.values):
            state = where_kept(kept, row, value, state)
        return state
