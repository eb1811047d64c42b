"""Llama 4: attention in chunks, and queries without rotation that are scaled by their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from helix_mlx.models.families.positions import is_ragged, positions, with_rows

_GLOBAL = 4
"""Every fourth layer sees all positions."""


def chunked_model(kind: Any) -> dict[str, Any]:
    """`LlamaModel`, which makes its masks of one position, and drops what lies before the chunk.

    Helix's pages keep that, so a mask hides it.
    """
    original = kind.__call__

    def called(self: Any, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        if cache is None or not is_ragged(cache[0].offset):
            return original(self, inputs, cache)
        h, size = self.embed_tokens(inputs), self.attention_chunk_size
        seen = cache[_GLOBAL - 1].make_mask(h.shape[1], return_array=True)
        rows = positions(cache[0].offset, h.shape[1])[:, None, :, None]
        in_chunk = seen & (rows // size == mx.arange(seen.shape[-1]) // size)
        for number, (layer, own) in enumerate(zip(self.layers, cache, strict=True), 1):
            h = layer(h, in_chunk if number % _GLOBAL else seen, cache=own)
        return self.norm(h)

    return {"__call__": called}


def scaled_attention(kind: Any) -> dict[str, Any]:
    """`Attention`, which scales the queries of the layers that see all by `arange` of two positions."""
    original = kind.__call__

    def called(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if self.use_rope or cache is None or not is_ragged(cache.offset):
            return original(self, x, mask, cache)
        return with_rows(original, positions(cache.offset, x.shape[1]) + 1)(self, x, mask, cache)

    return {"__call__": called}
