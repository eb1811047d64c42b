"""RMS norm: MLX's own (the reference), ours for the CPU, and the layer that uses it."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.layer import FLOATS, take_over


def rms_norm(x: mx.array, weight: mx.array, eps: float, library: CpuLibrary | None = None) -> mx.array:
    """`mx.fast.rms_norm`, or what our kernel makes of it: one operation, where MLX has eight on a CPU.

    A row's result never depends on the other rows.

    Args:
        x: `[..., D]`, float32, float16 or bfloat16, of any strides.
        weight: `[D]`, of x's dtype for our kernel.
        eps: is added to the mean of the squares.
        library: our kernels; None uses MLX's own operation.

    Returns:
        `[..., D]` of x's dtype.

    Raises:
        ValueError: our kernel does not know such operands.
    """
    if library is None:
        return mx.fast.rms_norm(x, weight, eps)
    return library.module.rms_norm(x, weight, eps)


class FastRMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` by our kernel, and by MLX where the input is not of the weight's type.

    Args:
        layer: the layer that it replaces.
        library: the kernels.
    """

    def __init__(self, layer: nn.RMSNorm, library: CpuLibrary) -> None:
        take_over(self, layer, library)

    @staticmethod
    def serves(layer: nn.RMSNorm) -> bool:
        """Whether our kernel serves this layer."""
        return layer["weight"].dtype in FLOATS

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` to `[..., D]`."""
        weight = self["weight"]
        return rms_norm(x, weight, self.eps, self._library if x.dtype == weight.dtype else None)
