"""Rotary position embedding: MLX's own (the reference), ours for the CPU, and the layer that uses it."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx_lm.models.rope_utils import Llama3RoPE

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.layer import FLOATS


def rope(
    x: mx.array,
    offset: int | mx.array,
    frequencies: mx.array,
    *,
    traditional: bool = False,
    scale: float = 1.0,
    library: CpuLibrary | None = None,
) -> mx.array:
    """`mx.fast.rope`, or what our kernel makes of it: one operation, where MLX has some twenty on a CPU.

    A row's result depends on itself and its position alone.

    Args:
        x: `[B, heads, M, D]`, float32, float16 or bfloat16, of any strides.
        offset: the position of each sequence's first row, `[B]`, or one for all.
        frequencies: `[pairs]` float32, radians a position; what is past `2 * pairs` in a row stays as it is.
        traditional: pairs are neighbours; otherwise they lie `pairs` apart.
        scale: positions are multiplied by it.
        library: our kernels; None uses MLX's own operation.

    Returns:
        `[B, heads, M, D]` of x's dtype.

    Raises:
        ValueError: our kernel does not know such operands.
    """
    if library is None:
        pairs = frequencies.shape[0]
        return mx.fast.rope(
            x, 2 * pairs, traditional=traditional, base=None, scale=scale, offset=offset, freqs=1 / frequencies
        )
    return library.module.rope(x, offset, frequencies, traditional, scale)


def frequencies_of(layer: Any) -> mx.array | None:
    """`[pairs]` float32 radians a position, of a layer that our kernel serves; None of another one."""
    if type(layer) is nn.RoPE:
        pairs = layer.dims // 2
        return mx.exp(mx.arange(0, -pairs, -1, dtype=mx.float32) * (math.log(layer.base) / pairs))
    if type(layer) is Llama3RoPE:
        return 1 / layer._freqs.astype(mx.float32)
    return None


class FastRoPE(Module):
    """`nn.RoPE`, or that of Llama 3, by our kernel; by MLX for inputs that it does not know.

    Args:
        layer: the layer that it replaces.
        library: the kernels.
    """

    def __init__(self, layer: Any, library: CpuLibrary) -> None:
        super().__init__()
        frequencies = frequencies_of(layer)
        assert frequencies is not None
        mx.eval(frequencies)
        self._frequencies = frequencies
        self._layer = layer
        self._library = library
        self._traditional = bool(layer.traditional)
        self._scale = float(getattr(layer, "scale", 1.0))

    @staticmethod
    def serves(layer: Any) -> bool:
        """Whether our kernel serves this layer."""
        return frequencies_of(layer) is not None

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """`[B, heads, M, D]` to the same."""
        if x.ndim != 4 or x.dtype not in FLOATS:
            return self._layer(x, offset=offset)
        return rope(
            x, offset, self._frequencies, traditional=self._traditional, scale=self._scale, library=self._library
        )
