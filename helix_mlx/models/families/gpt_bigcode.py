"""GPT-BigCode: positions are learned, and looked up by NumPy's `arange`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from helix_mlx.kernels.functions import StandIn, renamed
from helix_mlx.models.families.positions import is_ragged, positions


def learned_positions(kind: Any) -> dict[str, Any]:
    """`GPTBigCodeModel`."""
    original = kind.__call__

    def called(self: Any, inputs: mx.array, cache: Any = None) -> mx.array:
        if cache is None or not is_ragged(cache[0].offset):
            return original(self, inputs, cache)
        rows = positions(cache[0].offset, inputs.shape[1])
        return renamed(original, {"np": StandIn(np, arange=lambda first, last: rows)})(self, inputs, cache)

    return {"__call__": called}
