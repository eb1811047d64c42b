"""The recurrent states of a batch of sequences, for one model."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from helix_mlx.recurrent.cache import RecurrentCache
from helix_mlx.recurrent.layout import StateShape
from helix_mlx.recurrent.records import Record

Arrays = list[list[mx.array | None]]
"""A layer's arrays, [B, ...] each; None where no sequence has read anything, and the layer tells that from zeros."""


class RecurrentStates:
    """What each recurrent layer keeps of all positions so far; always those that are verified.

    A pass whose rows may be taken back records them, and runs on from where the pass before has ended; `advance`
    then goes from the verified state over the rows that were kept. Arrays are never changed in place, so that states
    can be shared.

    Args:
        shapes: a recurrent layer each.
        arrays: a layer's arrays.
        fresh: for each sequence, whether it has read nothing yet.
    """

    def __init__(self, shapes: Sequence[StateShape], arrays: Arrays, fresh: Sequence[bool]) -> None:
        self._shapes = shapes
        self._verified = arrays
        self._running: Arrays | None = None
        self._records: list[dict[int, Record]] = []
        self.fresh = list(fresh)

    @classmethod
    def empty(cls, shapes: Sequence[StateShape]) -> RecurrentStates:
        """One sequence that has read nothing."""
        fresh = any(shape.starts_empty for shape in shapes)
        return cls(shapes, [_start(shape, 1) for shape in shapes], [fresh])

    @classmethod
    def concatenate(cls, parts: Sequence[RecurrentStates]) -> RecurrentStates:
        """The sequences of several, in one batch."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        fresh = [each for part in parts for each in part.fresh]
        if all(fresh):
            return cls(first._shapes, [_start(shape, len(fresh)) for shape in first._shapes], fresh)
        arrays: Arrays = []
        for layer, shape in enumerate(first._shapes):
            each = [part._filled(layer) for part in parts]
            arrays.append([mx.concatenate([part[i] for part in each]) for i in range(len(shape.shapes))])
        return cls(first._shapes, arrays, fresh)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that is there, for `mx.eval`."""
        return [array for layer in self._verified for array in layer if array is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of all sequences' states."""
        return len(self.fresh) * sum(shape.nbytes for shape in self._shapes)

    def take(self, rows: Sequence[int]) -> RecurrentStates:
        """The sequences named by `rows`, in that order."""
        assert self._running is None
        if list(rows) == list(range(len(self.fresh))):
            return self.copy()
        index = mx.array(list(rows))
        arrays = [[None if array is None else array[index] for array in layer] for layer in self._verified]
        return RecurrentStates(self._shapes, arrays, [self.fresh[row] for row in rows])

    def copy(self) -> RecurrentStates:
        """The same states, to go on from twice."""
        assert self._running is None
        return RecurrentStates(self._shapes, [list(layer) for layer in self._verified], self.fresh)

    def caches(self, record: bool) -> list[RecurrentCache]:
        """A cache object for each recurrent layer, for one pass.

        Args:
            record: whether some of the pass's rows may be taken back, by `advance`; else all of them are kept.
        """
        if not record:
            assert self._running is None
            fresh, self.fresh = self._fresh_rows(), [False] * len(self.fresh)
            return [RecurrentCache(layer, fresh) for layer in self._verified]
        if self._running is None:
            self._verified = [list(self._filled(layer)) for layer in range(len(self._shapes))]
            self._running = [list(layer) for layer in self._verified]
            self._records = [{} for _ in self._shapes]
        fresh, self.fresh = self._fresh_rows(), [False] * len(self.fresh)
        return [
            RecurrentCache(layer, fresh, records) for layer, records in zip(self._running, self._records, strict=True)
        ]

    def advance(self, kept: mx.array, limits: mx.array | None = None) -> RecurrentStates | None:
        """Go on by the rows that were kept, of all that were recorded since the last time, on the device.

        Args:
            kept: [B] int32.
            limits: [B] int32, rows to the place where a copy of each sequence's states is wanted.

        Returns:
            The states after the first `limits[b]` rows, as far as they were kept; None where no copy is wanted. Where
            nothing was recorded, they are the states as they are.
        """
        if self._running is None:
            return None if limits is None else self.copy()
        copies: Arrays = []
        limited = None if limits is None else mx.minimum(kept, limits)
        for layer, records in enumerate(self._records):
            for index in range(len(self._shapes[layer].shapes)):
                assert index in records, f"array {index} of recurrent layer {layer} was not recorded"
            if limited is not None:
                copies.append([records[index].advance(limited) for index in sorted(records)])
            self._verified[layer] = [records[index].advance(kept) for index in sorted(records)]
        self._running, self._records = None, []
        return RecurrentStates(self._shapes, copies, self.fresh) if limited is not None else None

    def _fresh_rows(self) -> list[bool]:
        """Which sequences have zeros in the place of nothing."""
        filled = any(array is not None for layer in (self._running or self._verified) for array in layer)
        return self.fresh if filled else [False] * len(self.fresh)

    def _filled(self, layer: int) -> list[mx.array]:
        shape, batch = self._shapes[layer], len(self.fresh)
        return [shape.zeros(i, batch) if a is None else a for i, a in enumerate(self._verified[layer])]


def _start(shape: StateShape, batch: int) -> list[mx.array | None]:
    if shape.starts_empty:
        return [None] * len(shape.shapes)
    return [shape.zeros(index, batch) for index in range(len(shape.shapes))]
