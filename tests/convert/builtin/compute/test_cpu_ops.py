"""The operations of training are mlx-lm's own, up to less than the noise of a gradient."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama

from helix_mlx.convert.builtin.compute.cpu_ops import (
    causal_attention,
    cross_entropy,
    fast_training_ops,
    log_partition,
    negative_exp,
    sigmoid,
    swiglu,
)
from tests.convert.builtin.conftest import TARGET


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def test_exp_of_what_is_not_above_zero() -> None:
    x = np.linspace(-15.9, 0.0, 2000, dtype=np.float32)
    assert np.allclose(np.array(negative_exp(mx.array(x))), np.exp(x), rtol=1e-4)
    assert float(negative_exp(mx.array(-1e9))) == pytest.approx(np.exp(-16), rel=1e-3)
    assert np.allclose(np.array(mx.grad(lambda y: negative_exp(y).sum())(mx.array(x))), np.exp(x), rtol=1e-4)


def test_sigmoid_and_swiglu_with_their_gradients() -> None:
    gate, x = 3 * normal(4, 16), normal(4, 16, seed=1)
    assert np.allclose(np.array(sigmoid(gate)), np.array(mx.sigmoid(gate)), atol=1e-4)
    ours = mx.value_and_grad(lambda a, b: (swiglu(a, b) * x).sum(), argnums=(0, 1))(gate, x)
    theirs = mx.value_and_grad(lambda a, b: (nn.silu(a) * b * x).sum(), argnums=(0, 1))(gate, x)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-3)
    for own, its in zip(ours[1], theirs[1], strict=True):
        assert np.allclose(np.array(own), np.array(its), atol=1e-3)


def test_attention_of_grouped_heads_sees_no_later_position() -> None:
    queries, keys, values = normal(2, 4, 9, 8), normal(2, 2, 9, 8, seed=1), normal(2, 2, 9, 8, seed=2)
    ours = causal_attention(queries, keys, values, scale=0.3, mask="causal")
    theirs = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask="causal")
    assert np.allclose(np.array(ours), np.array(theirs), atol=1e-4)


def test_cross_entropy_is_of_the_positions_with_weight() -> None:
    logits, targets = 4 * normal(2, 3, 11), mx.array([[1, 2, 3], [4, 5, 6]])
    weights = mx.array([[1.0, 0.0, 0.5], [0.0, 0.0, 2.0]])
    each = nn.losses.cross_entropy(logits, targets, reduction="none")
    expected = float((each * weights).sum() / weights.sum())
    assert float(cross_entropy(logits, targets, weights)) == pytest.approx(expected, rel=1e-3)
    assert float(cross_entropy(logits, targets, 0 * weights)) == 0.0
    assert np.allclose(np.array(log_partition(logits)), np.array(mx.logsumexp(logits, axis=-1)), atol=1e-3)


def test_a_model_trains_by_them_and_is_left_as_it_was() -> None:
    mx.random.seed(0)
    model, tokens, before = TARGET.build(), mx.array([[3, 9, 27, 81, 243]]), llama.swiglu
    expected = np.array(model(tokens))
    with fast_training_ops():
        assert llama.swiglu is swiglu
        assert np.allclose(np.array(model(tokens)), expected, atol=1e-3)
    assert llama.swiglu is before
