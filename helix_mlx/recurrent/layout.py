"""What the cache objects of a model stand for: keys and values, a recurrent state, or several of either."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx


@dataclass(frozen=True)
class StateShape:
    """The arrays that one recurrent layer keeps for a sequence: their shapes without the batch, and their types.

    `starts_empty` says that the layer tells a sequence without any position from one whose arrays are zeros.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[mx.Dtype, ...]
    starts_empty: bool = False

    def zeros(self, index: int, batch: int) -> mx.array:
        """What a sequence without any position has in array `index`: [batch, ...]."""
        return mx.zeros((batch, *self.shapes[index]), self.dtypes[index])

    @property
    def nbytes(self) -> int:
        """Bytes of one sequence's state of this layer."""
        total = 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = dtype.size
            for length in shape:
                size *= length
            total += size
        return total


@dataclass(frozen=True)
class KVSlot:
    """A cache object that stores keys and values: the number of its layer in the pool."""

    layer: int


@dataclass(frozen=True)
class StateSlot:
    """A cache object that stores a recurrent state: the number of its layer among the recurrent ones."""

    layer: int


@dataclass(frozen=True)
class ListSlot:
    """A cache object that holds several others (mlx-lm's CacheList)."""

    parts: tuple[CacheSlot, ...]


CacheSlot = KVSlot | StateSlot | ListSlot


@dataclass(frozen=True)
class CacheLayout:
    """The cache objects of a model, in its own order, and the shapes of its recurrent states."""

    slots: tuple[CacheSlot, ...]
    states: tuple[StateShape, ...] = ()

    @classmethod
    def plain(cls, layers: int) -> CacheLayout:
        """One cache of keys and values a layer, as most models have."""
        return cls(tuple(KVSlot(layer) for layer in range(layers)))

    @cached_property
    def is_plain(self) -> bool:
        """Whether it is what `plain` makes."""
        return self == self.plain(len(self.slots))

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of one sequence's recurrent states."""
        return sum(shape.nbytes for shape in self.states)
