"""Quantised matrix product: MLX's own (the reference), ours for the CPU, and the layers that use it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.layer import FLOATS, take_over

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)


def quantized_matmul(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    group_size: int,
    bits: int,
    library: CpuLibrary | None = None,
) -> mx.array:
    """x times the transpose of a quantised matrix: `mx.quantized_matmul`, or what our kernels make of it.

    Ours sums every row in the same order whatever the number of rows, so a row's result never changes.

    Args:
        x: `[..., K]`, float32, float16 or bfloat16, of any strides.
        weight: `[N, K * bits / 32]` uint32, as `mx.quantize` packs it in its affine mode.
        scales, biases: `[N, K / group_size]`; float32 for our kernels.
        group_size: 32, 64 or 128.
        bits: 4 or 8.
        library: our kernels; None uses MLX's own operation.

    Returns:
        `[..., N]` of x's dtype with our kernels, of the widest of the three with MLX.

    Raises:
        ValueError: our kernels do not know such operands.
    """
    if library is None:
        return mx.quantized_matmul(x, weight, scales, biases, transpose=True, group_size=group_size, bits=bits)
    return library.module.quantized_matmul(x, weight, scales, biases, group_size, bits)


def embedding(
    ids: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    group_size: int,
    bits: int,
    library: CpuLibrary | None = None,
) -> mx.array:
    """Rows of a quantised matrix: `mx.dequantize` of them, or what our kernel makes of it, which is the same.

    Args:
        ids: `[...]` of whole numbers; one below 0 counts from the end.
        weight, scales, biases, group_size, bits: as for `quantized_matmul`, of one matrix.
        library: our kernels; None uses MLX's own operation.

    Returns:
        `[..., K]` float32 with our kernel, of the dtype of the scales with MLX.

    Raises:
        ValueError: our kernel does not know such operands.
    """
    if library is None:
        return mx.dequantize(weight[ids], scales[ids], biases[ids], group_size=group_size, bits=bits)
    return library.module.embedding(ids, weight, scales, biases, group_size, bits)


class _Served:
    """A layer that our kernels support: affine, 4 or 8 bits, with a supported group size.

    Args:
        layer: the MLX's layer that it replaces.
        library: the kernels.
    """

    def __init__(self: Any, layer: Module, library: CpuLibrary) -> None:
        take_over(self, layer, library)
        self._widest = layer["scales"].dtype
        self["weight"] = mx.contiguous(layer["weight"])
        for name in ("scales", "biases"):
            self[name] = mx.contiguous(layer[name].astype(mx.float32))
        mx.eval(*self._matrix)

    @property
    def _matrix(self: Any) -> tuple[mx.array, mx.array, mx.array]:
        return self["weight"], self["scales"], self["biases"]

    @staticmethod
    def serves(layer: Any) -> bool:
        """Whether our kernels serve this layer."""
        operands = [layer.get(name) for name in ("weight", "scales", "biases")]
        return (
            layer.mode == "affine"
            and layer.bits in BITS
            and layer.group_size in GROUP_SIZES
            and all(array is not None for array in operands)
            and operands[0].dtype == mx.uint32
            and operands[1].dtype in FLOATS
        )


def _widened(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """An array in the dtype that MLX would give the product."""
    return x if x.dtype == dtype else x.astype(mx.result_type(x.dtype, dtype))


class FastQuantizedLinear(_Served, nn.QuantizedLinear):
    """A quantised linear layer by our kernels."""

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., K]` to `[..., N]`."""
        x = _widened(x, self._widest)
        y = self._library.module.quantized_matmul(x, *self._matrix, self.group_size, self.bits)
        return y + self["bias"] if "bias" in self else y


class FastQuantizedEmbedding(_Served, nn.QuantizedEmbedding):
    """A quantised embedding by our kernels: a row a token in one operation, where MLX has a dozen on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        """Token ids `[...]` to `[..., K]`."""
        rows = self._library.module.embedding(x, *self._matrix, self.group_size, self.bits)
        return rows.astype(self._widest)

    def as_linear(self, x: mx.array) -> mx.array:
        """`[..., K]` to logits `[..., N]`."""
        return self._library.module.quantized_matmul(
            _widened(x, self._widest), *self._matrix, self.group_size, self.bits
        )


class FastQuantizedSwitchLinear(_Served, QuantizedSwitchLinear):
    """The quantised linear layers of a mixture's experts by our kernels."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """`[..., 1, K]`, each row for the expert of its index, to `[..., 1, N]`."""
        x = _widened(x, self._widest)
        y = self._library.module.gather_qmm(x, *self._matrix, indices, self.group_size, self.bits)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y
