"""What a pass keeps of its rows, so that a state can be advanced by fewer rows than the pass has read.

A record begins with the state before the first of its rows, which may come from several passes (a draft model reads
one row after the other). `advance(kept)` gives the state after the first `kept[b]` rows of each sequence b, with the
bits of reading just these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx


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

    def advance(self, kept: mx.array) -> mx.array:
        """See `Record`."""
        held, axis = self.base.shape[self.axis], self.axis
        rows = mx.concatenate([self.base, *self.inputs], axis=axis)
        index = kept[:, None] + mx.arange(held)[None]
        shape = [1] * rows.ndim
        shape[0], shape[axis] = index.shape
        return mx.take_along_axis(rows, index.reshape(shape), axis=axis)


@dataclass
class ScanRecord:
    """A state that a scan function computes from the inputs of each row.

    Args:
        base: the state before the first row; None where there was no position before it.
        scan: how the function is called.
    """

    base: mx.array | None
    scan: Scan
    calls: list[Mapping[str, Any]] = field(default_factory=list)

    def advance(self, kept: mx.array) -> mx.array:
        """See `Record`."""
        first, scan = self.calls[0], self.scan
        joined = dict(first)
        for name, axis in scan.rows.items():
            joined[name] = mx.concatenate([call[name] for call in self.calls], axis=axis)
        rows = scan.count(joined)
        if not scan.stepwise:
            mask = mx.arange(rows)[None] < kept[:, None]
            return scan.run({**joined, "mask": mask}, self.base)[1]
        state = self.base
        for row in range(rows):
            _, following = scan.run(scan.row(joined, row), state)
            before = mx.zeros_like(following) if state is None else state
            more = (kept > row).reshape(-1, *[1] * (following.ndim - 1))
            state = mx.where(more, following, before)
        assert state is not None
        return state


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
            state = mx.where((kept > row).reshape(-1, *[1] * (value.ndim - 1)), value, state)
        return state


@dataclass(frozen=True)
class Scan:
    """A function of mlx-lm that reads rows into a state, and returns `(outputs, state)`.

    Args:
        function: it.
        state: the name of its parameter for the state.
        rows: the names of its parameters with a row for each token, and the axes of these rows.
        outputs: the axis of the rows of what it returns.
        stepwise: whether it has to be called row by row for the bits of single steps; else it takes a mask [B, M] of
            the rows that count.
    """

    function: Callable[..., tuple[mx.array, mx.array]]
    state: str
    rows: Mapping[str, int]
    outputs: int
    stepwise: bool

    def count(self, arguments: Mapping[str, Any]) -> int:
        """Rows in a call."""
        name, axis = next(iter(self.rows.items()))
        return int(arguments[name].shape[axis])

    def row(self, arguments: Mapping[str, Any], row: int) -> dict[str, Any]:
        """The arguments of a call for one of the rows."""
        cut = {name: mx.take(arguments[name], mx.array([row]), axis=axis) for name, axis in self.rows.items()}
        return {**arguments, **cut}

    def run(self, arguments: Mapping[str, Any], state: mx.array | None) -> tuple[mx.array, mx.array]:
        """The function's own result, from a state."""
        return self.function(**{**arguments, self.state: state})

    def __call__(self, arguments: Mapping[str, Any], state: mx.array | None) -> tuple[mx.array, mx.array]:
        """The outputs of all rows, and the state behind the last, with the bits of single steps."""
        count = self.count(arguments)
        if not self.stepwise or count == 1:
            return self.run(arguments, state)
        outputs = []
        for row in range(count):
            output, state = self.run(self.row(arguments, row), state)
            outputs.append(output)
        assert state is not None
        return mx.concatenate(outputs, axis=self.outputs), state
