"""The products and exponentials of training on Linux's CPU, by numpy, where MLX's wheel brings a BLAS without vectors.

MLX goes on recording what is computed, and each of these tells it its gradient; in between, arrays are computed as they
are needed. A step of the built-in draft takes a twentieth of the time. Families that do not call mlx-lm's own
attention and activation keep MLX's.
"""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import llama
from numpy.typing import NDArray

from helix_mlx.convert.distill import distillation_loss

Array = NDArray[np.float32]


def are_faster() -> bool:
    """Whether this machine trains faster with them."""
    return mx.default_device() == mx.Device(mx.cpu) and platform.system() == "Linux"


def fastest_ops() -> AbstractContextManager[None]:
    """`numpy_ops` where they are faster; else nothing is changed."""
    return numpy_ops() if are_faster() else nullcontext()


@contextmanager
def numpy_ops() -> Iterator[None]:
    """While active, MLX's layers multiply by numpy, and mlx-lm's Llama attends by it. All weights have to be float32.

    What runs meanwhile cannot be compiled by `mx.compile`. Ctrl-C waits for the end: what is raised while numpy asks an
    array for its numbers, numpy takes for an answer, and goes on.
    """
    pressed: list[int] = []
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)) if on_main else None
    try:
        with _patched():
            yield
    finally:
        if on_main:
            signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def _patched() -> Iterator[None]:
    with (
        patch.object(nn.Linear, "__call__", _linear),
        patch.object(nn.Embedding, "as_linear", lambda layer, x: product(x, layer.weight.T)),
        patch.object(llama, "scaled_dot_product_attention", attention),
        patch.object(llama, "swiglu", swiglu),
        patch.object(distillation_loss, "top_logprobs", top_logprobs),
    ):
        yield


def _given(x: mx.array) -> Array:
    found: Array = np.asarray(x)
    return found


def _linear(layer: nn.Linear, x: mx.array) -> mx.array:
    found = product(x, layer.weight.T)
    return found + layer.bias if "bias" in layer else found


def _product(x: mx.array, w: mx.array) -> mx.array:
    return mx.array(_given(x) @ _given(w))


def _product_vjp(operands: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    x, w, g = (_given(each) for each in (*operands, cotangent))
    if w.ndim == 2:  # one weight for all rows
        return mx.array(g @ w.T), mx.array(x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1]))
    return mx.array(g @ w.swapaxes(-1, -2)), mx.array(x.swapaxes(-1, -2) @ g)


_product_with_gradient = mx.custom_function(_product)
_product_with_gradient.vjp(_product_vjp)
product = cast("Callable[[mx.array, mx.array], mx.array]", _product_with_gradient)
"""`x @ w`, `[..., M, K]` by `[K, N]` or by as many `[..., K, N]`."""


def top_logprobs(logits: mx.array, ids: mx.array, temperature: float) -> mx.array:
    """As `distillation_loss.top_logprobs`, in as few passes over the vocabulary as can be."""
    chosen = np.asarray(ids)

    def forward(logits: mx.array) -> mx.array:
        x = _given(logits) * np.float32(1 / temperature)
        top = x.max(axis=-1, keepdims=True)
        picked = np.take_along_axis(x, chosen, axis=-1)
        x -= top
        np.exp(x, out=x)
        return mx.array(picked - top - np.log(x.sum(axis=-1, keepdims=True)))

    def backward(logits: mx.array, cotangent: mx.array, logprobs: mx.array) -> mx.array:
        x, g = _given(logits) * np.float32(1 / temperature), _given(cotangent)
        partition = np.take_along_axis(x, chosen[:, :1], axis=-1) - _given(logprobs)[:, :1]
        x -= partition
        np.exp(x, out=x)
        x *= -g.sum(axis=-1, keepdims=True)
        np.put_along_axis(x, chosen, np.take_along_axis(x, chosen, axis=-1) + g, axis=-1)
        x *= np.float32(1 / temperature)
        return mx.array(x)

    with_gradient: Any = mx.custom_function(forward)
    with_gradient.vjp(backward)
    found: mx.array = with_gradient(logits)
    return found


def _sigmoid(x: Array) -> Array:
    found: Array = np.float32(1) / (1 + np.exp(-np.clip(x, -60, 60)))
    return found


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    g = _given(gate)
    return mx.array(g * _sigmoid(g) * _given(x))


def _swiglu_vjp(operands: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    g, x, c = (_given(each) for each in (*operands, cotangent))
    s = _sigmoid(g)
    return mx.array(c * x * (s + g * s * (1 - s))), mx.array(c * g * s)


_swiglu_with_gradient = mx.custom_function(_swiglu)
_swiglu_with_gradient.vjp(_swiglu_vjp)
swiglu = cast("Callable[[mx.array, mx.array], mx.array]", _swiglu_with_gradient)
"""`silu(gate) * x`."""


def _softmax(scores: mx.array) -> mx.array:
    x = _given(scores)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return mx.array(weights / weights.sum(axis=-1, keepdims=True))


def _softmax_vjp(_: mx.array, cotangent: mx.array, weights: mx.array) -> mx.array:
    w, c = _given(weights), _given(cotangent)
    return mx.array(w * (c - (w * c).sum(axis=-1, keepdims=True)))


_softmax_with_gradient = mx.custom_function(_softmax)
_softmax_with_gradient.vjp(_softmax_vjp)
softmax = cast("Callable[[mx.array], mx.array]", _softmax_with_gradient)
"""Over the last axis."""


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, cache: Any = None, scale: float = 1.0, mask: Any = None
) -> mx.array:
    """Causal attention without a cache, in the signature of mlx-lm's `scaled_dot_product_attention`.

    `queries` [B, H, L, D], `keys` and `values` [B, H_kv, L, D]; returns [B, H, L, D].
    """
    assert cache is None, "training attends without a cache"
    assert isinstance(mask, str), "training attends to whole rows"
    batch, heads, length, width = queries.shape
    kv_heads = keys.shape[1]
    grouped = (queries * scale).reshape(batch, kv_heads, -1, width)
    scores = product(grouped, keys.swapaxes(-1, -2)).reshape(batch, heads, length, length)
    positions = mx.arange(length)
    scores = mx.where(positions[:, None] >= positions, scores, -1e9)
    mixed = product(softmax(scores).reshape(batch, kv_heads, -1, length), values)
    return mixed.reshape(batch, heads, length, width)
