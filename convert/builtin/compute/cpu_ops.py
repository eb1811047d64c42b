"""Attention, SwiGLU and cross entropy for training on MLX's CPU backend.

MLX's CPU backend evaluates ``exp`` one number at a time (about 9 ns each), and a training step of the built-in pair
needs tens of millions of them: they take longer than all its matrix products. Here ``exp`` is a polynomial, which
``mx.compile`` fuses into vectorised loops. Its relative error, about 1e-5, is far under the noise of a gradient. Only
training uses these forms; figures are always measured with mlx-lm's own operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import mlx.core as mx
from mlx_lm.models import llama

# Below this, exp is treated as exp(-16) = 1e-7: no weight in a softmax, no gradient in a sigmoid.
EXP_FLOOR = -16.0
# exp(z) on [-1, 0] by least squares of the relative error, highest power first.
EXP_COEFFICIENTS = (
    0.005002006368095295,
    0.03808811658479738,
    0.164785673743874,
    0.4995359833632833,
    0.9999565204165282,
    0.9999993030582663,
)


def _negative_exp(x: mx.array) -> mx.array:
    """exp(x) for x <= 0, any shape; below -16 it stays at 1e-7."""
    z = mx.maximum(x, EXP_FLOOR) * (1.0 / 16.0)
    result = z * EXP_COEFFICIENTS[0] + EXP_COEFFICIENTS[1]
    for coefficient in EXP_COEFFICIENTS[2:]:
        result = result * z + coefficient
    for _ in range(4):  # (exp(x / 16)) ** 16
        result = result * result
    return result


# exp is its own derivative: cheaper than that of the polynomial.
_exp_with_gradient = mx.custom_function(_negative_exp)
_exp_with_gradient.vjp(lambda x, cotangent, output: cotangent * output)
negative_exp = cast("Callable[[mx.array], mx.array]", _exp_with_gradient)


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)), any shape."""
    small = negative_exp(-mx.abs(x))
    return mx.where(x > 0, 1.0, small) / (1.0 + small)


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x, elementwise."""
    return gate * sigmoid(gate) * x


def _swiglu_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    s = sigmoid(gate)
    silu = gate * s
    return cotangent * x * (s + silu * (1.0 - s)), cotangent * silu


_swiglu_with_gradient = mx.custom_function(_swiglu)
_swiglu_with_gradient.vjp(_swiglu_vjp)
swiglu = cast("Callable[[mx.array, mx.array], mx.array]", _swiglu_with_gradient)


def causal_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any = None,
    scale: float = 1.0,
    mask: Any = None,
) -> mx.array:
    """Causal attention without a cache, in the signature of mlx-lm's ``scaled_dot_product_attention``.

    ``queries`` [B, H, L, D], ``keys`` and ``values`` [B, H_kv, L, D]; returns [B, H, L, D].
    """
    assert cache is None, "training attends without a cache"
    assert isinstance(mask, str), "training attends to whole rows"
    batch, heads, length, width = queries.shape
    kv_heads = keys.shape[1]
    grouped = (queries * scale).reshape(batch, kv_heads, heads // kv_heads, length, width)
    scores = grouped @ keys[:, :, None].swapaxes(-1, -2)
    positions = mx.arange(length)
    hidden = mx.where(positions[:, None] >= positions[None], 0.0, -1e9)
    scores = scores + hidden
    top = mx.stop_gradient(mx.max(scores, axis=-1, keepdims=True))
    weights = negative_exp(scores - top)
    # Normalising the output instead of the weights saves two passes over [L, L].
    total = mx.sum(weights, axis=-1, keepdims=True)
    mixed = (weights @ values[:, :, None]) / total
    return mixed.reshape(batch, heads, length, width)


def log_partition(logits: mx.array) -> mx.array:
    """log(sum(exp(logits))) over the last axis: [..., V] -> [...]."""
    top = mx.stop_gradient(mx.max(logits, axis=-1, keepdims=True))
    return mx.log(mx.sum(negative_exp(logits - top), axis=-1)) + top.squeeze(-1)


def cross_entropy(logits: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Mean of -log p(target) over the positions with weight, nats.

    ``logits`` [B, L, V], ``targets`` and ``weights`` [B, L].
    """
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return mx.sum((log_partition(logits) - chosen) * weights) / mx.maximum(mx.sum(weights), 1.0)


@contextmanager
def fast_training_ops() -> Iterator[None]:
    """While active, mlx-lm's Llama computes attention and SwiGLU with the forms of this module."""
    with (
        patch.object(llama, "scaled_dot_product_attention", causal_attention),
        patch.object(llama, "swiglu", swiglu),
    ):
        yield
