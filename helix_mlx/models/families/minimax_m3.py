"""MiniMax M3: attention to the blocks of keys that an index finds best, the nearest among them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from helix_mlx.models.families.positions import is_ragged, positions, with_rows


def sparse_attention(kind: Any) -> dict[str, Any]:
    """`Attention`, which takes it that the last key that is held is the last row's own."""
    original = kind._block_mask

    def block_mask(self: Any, x: mx.array, mask: Any, offset: Any, cache: Any) -> Any:
        if not is_ragged(offset):
            return original(self, x, mask, offset, cache)
        return with_rows(original, positions(offset, x.shape[1]))(self, x, mask, offset, cache)

    return {"_block_mask": block_mask}
