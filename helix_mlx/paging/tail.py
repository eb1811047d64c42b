"""The positions of running sequences that are not in a page yet, for one model.

The tail is small, so MLX may copy it at each write: that is what keeps the pool from being copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from helix_mlx.paging.page_pool import LayerShape


class Tail:
    """Keys and values `[batch, slots, heads, dim]` a layer. Slot 0 is each sequence's first position in no page.

    Rolling back is a smaller length, kept elsewhere, and moves no data; what lies behind the length is masked.

    Args:
        keys, values: a layer, [batch, slots, heads, dim].
        batch, slots: the sequences, and the positions that each can hold; a model may have recurrent layers alone.
    """

    def __init__(self, keys: list[mx.array], values: list[mx.array], batch: int, slots: int) -> None:
        self.keys = keys
        self.values = values
        self.batch = batch
        self.slots = slots

    @classmethod
    def zeros(cls, layers: Sequence[LayerShape], batch: int, slots: int) -> Tail:
        """An empty tail."""
        return cls(
            [mx.zeros((batch, slots, s.key_heads, s.key_dim), s.dtype) for s in layers],
            [mx.zeros((batch, slots, s.value_heads, s.value_dim), s.dtype) for s in layers],
            batch,
            slots,
        )

    @classmethod
    def concatenate(cls, tails: Sequence[Tail]) -> Tail:
        """The sequences of several tails with equal slots, in one."""
        return cls(
            [mx.concatenate(list(layer)) for layer in zip(*(t.keys for t in tails), strict=True)],
            [mx.concatenate(list(layer)) for layer in zip(*(t.values for t in tails), strict=True)],
            sum(tail.batch for tail in tails),
            tails[0].slots,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(array.nbytes for array in self.keys + self.values)

    def places(self, at: mx.array, count: int) -> mx.array:
        """Where `write` puts `count` rows a sequence: made once for all layers of a pass.

        Args:
            at: [batch] int32, each sequence's first slot.
            count: M.

        Returns:
            The first slot, [1] int32, of a single sequence; else [batch * M] int32, where all tails are one row of
            slots.
        """
        if self.batch == 1:
            return at
        first = at + mx.arange(self.batch) * self.slots
        return (first[:, None] + mx.arange(count)[None]).flatten()

    def write(self, layer: int, places: mx.array, keys: mx.array, values: mx.array) -> None:
        """Put M rows a sequence into their slots.

        Args:
            layer: which layer.
            places: of `places`.
            keys, values: [batch, heads, M, dim].
        """
        for arrays, new in ((self.keys, keys), (self.values, values)):
            rows, old = new.transpose(0, 2, 1, 3), arrays[layer]
            if rows.shape[0] == 1:
                arrays[layer] = mx.slice_update(old, rows, places, axes=(1,))
            else:
                flat = old.flatten(0, 1)
                flat[places] = rows.flatten(0, 1)
                arrays[layer] = flat.reshape(old.shape)

    def whole_pages(self, counts: Sequence[int], page_size: int) -> tuple[list[mx.array], list[mx.array]]:
        """The first `counts[b]` pages' worth of each sequence b, in turn: [sum(counts), heads, page_size, dim]."""

        def cut(array: mx.array) -> mx.array:
            parts = [array[b, : n * page_size] for b, n in enumerate(counts) if n]
            joined = parts[0] if len(parts) == 1 else mx.concatenate(parts)
            return joined.reshape(-1, page_size, *array.shape[2:]).transpose(0, 2, 1, 3)

        return [cut(a) for a in self.keys], [cut(a) for a in self.values]

    def shifted(self, by: Sequence[int]) -> Tail:
        """Drop the first `by[b]` slots of each sequence b, moving the rest to the front."""
        slots = self.slots
        if len(by) == 1:
            order = None
        else:
            order = mx.minimum(mx.arange(slots)[None] + mx.array(list(by))[:, None], slots - 1)[..., None, None]

        def moved(array: mx.array) -> mx.array:
            if order is None:
                return mx.concatenate([array[:, by[0] :], array[:, : by[0]]], axis=1)
            return mx.take_along_axis(array, order, axis=1)

        return Tail([moved(a) for a in self.keys], [moved(a) for a in self.values], self.batch, self.slots)

    def take(self, rows: Sequence[int]) -> Tail:
        """The sequences with the indices `rows`, in that order."""
        index = mx.array(list(rows))
        return Tail([a[index] for a in self.keys], [a[index] for a in self.values], len(rows), self.slots)

    def fork(self) -> Tail:
        """The same positions, in arrays of its own: assigning to a part of an array changes it for all its holders."""
        return Tail([a[:] for a in self.keys], [a[:] for a in self.values], self.batch, self.slots)

    def resized(self, slots: int) -> Tail:
        """The same sequences with `slots` slots: truncated or padded with zeros."""

        def fit(array: mx.array) -> mx.array:
            if array.shape[1] >= slots:
                return mx.contiguous(array[:, :slots])
            return mx.pad(array, [(0, 0), (0, slots - array.shape[1]), (0, 0), (0, 0)])

        return Tail([fit(a) for a in self.keys], [fit(a) for a in self.values], self.batch, slots)
