"""Apple's foundation model: its last layers attend to the keys and values of one before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from helix_mlx.kernels.functions import rebuilt
from helix_mlx.models.families.positions import is_ragged


@dataclass(frozen=True)
class _Keys:
    """Keys [B, heads, S, dim] of sequences of different lengths, after a pass that has read up to `ends` [B]."""

    array: mx.array
    ends: mx.array

    @property
    def shape(self) -> tuple[int, int, mx.array, int]:
        """Of the keys that each sequence has."""
        batch, heads, _, dim = self.array.shape
        return batch, heads, self.ends, dim


class _Shared:
    """The cache of the layer that the last ones share, for one pass."""

    def __init__(self, cache: Any, rows: int) -> None:
        self._cache = cache
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def keys_and_values(self) -> tuple[_Keys, mx.array]:
        keys, values = self._cache.keys_and_values()
        return _Keys(keys, self._cache.offset + self._rows), values


def sharing_model(kind: Any) -> dict[str, Any]:
    """`AFMModel`."""
    original = kind.__call__

    def called(self: Any, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        if cache is None or not is_ragged(cache[0].offset):
            return original(self, inputs, cache)
        return original(self, inputs, [*cache[:-1], _Shared(cache[-1], inputs.shape[1])])

    return {"__call__": called}


def reusing_attention(kind: Any) -> dict[str, Any]:
    """`KVReuseAttention`, which reckons its rows' positions from the number of keys."""
    attention = kind.__call__.__globals__["scaled_dot_product_attention"]

    def attended(queries: mx.array, keys: Any, values: mx.array, **more: Any) -> mx.array:
        return attention(queries, keys.array if isinstance(keys, _Keys) else keys, values, **more)

    return rebuilt(kind, {"scaled_dot_product_attention": attended})
