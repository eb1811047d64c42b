"""The loss and the chance that a draft is kept, against their definitions over the whole vocabulary."""

from __future__ import annotations

import signal

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from helix_mlx.convert.distill.distillation_loss import Rows, imitation_loss, kept_chance
from helix_mlx.convert.distill.numpy_ops import attention, numpy_ops, product, swiglu
from helix_mlx.convert.distill.teacher import TEMPERATURES

PLACES, VOCAB = 12, 40
Logits = NDArray[np.float32]


def rows(target_logits: Logits, top: int, temperatures: Logits) -> Rows:
    """The target's opinion as it is kept: its best tokens, and the partitions of all."""
    shifted = target_logits - target_logits.max(axis=-1, keepdims=True)
    ids = np.argsort(-shifted, axis=-1)[:, :top].astype(np.int32)
    partitions = np.stack([np.log(np.exp(shifted / each).sum(axis=-1)) for each in TEMPERATURES], axis=-1)
    weights = np.ones(PLACES, np.float32)
    weights[-1] = 0
    given = (np.zeros((1, PLACES), np.int32), np.arange(PLACES), weights, ids)
    told = (np.take_along_axis(shifted, ids, axis=-1), partitions, temperatures)
    return Rows(*(mx.array(each) for each in (*given, *told)))


def drawn(seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 2, (PLACES, VOCAB)).astype(np.float32)


def probs(logits: Logits, temperature: float) -> Logits:
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    found: Logits = weights / weights.sum(axis=-1, keepdims=True)
    return found


def test_the_chance_is_that_of_the_token_rule_at_each_temperature() -> None:
    target, draft = drawn(0), drawn(1)
    temperatures = np.array([0.0, 0.7, 1.0] * 4, np.float32)
    found = np.array(kept_chance(mx.array(draft), rows(target, VOCAB, temperatures)))
    for place, temperature in enumerate(temperatures.tolist()):
        if temperature:
            both = np.minimum(probs(target, temperature)[place], probs(draft, temperature)[place]).sum()
        else:
            both = float(target[place].argmax() == draft[place].argmax())
        assert found[place] == pytest.approx(both, abs=1e-5)


def test_tokens_that_are_not_kept_count_as_rejected() -> None:
    target = drawn(0)
    ones = np.ones(PLACES, np.float32)
    every, few = (np.array(kept_chance(mx.array(target), rows(target, top, ones))) for top in (VOCAB, 8))
    assert every == pytest.approx(1.0, abs=1e-5)
    assert (few < every).all()


def test_nobody_imitates_the_target_better_than_itself() -> None:
    target, ones = drawn(0), np.ones(PLACES, np.float32)
    given = rows(target, VOCAB, ones)
    itself = imitation_loss(mx.array(target), given)
    assert all(mx.all(imitation_loss(mx.array(drawn(seed)), given) > itself) for seed in range(1, 6))


def test_numpy_says_what_mlx_says_gradients_included() -> None:
    given, draft = rows(drawn(0), 8, np.array([0.0, 0.7, 1.0] * 4, np.float32)), mx.array(drawn(1))
    loss, gradient = mx.value_and_grad(imitation_loss)(draft, given)
    chances = kept_chance(draft, given)
    with numpy_ops():
        other_loss, other_gradient = mx.value_and_grad(imitation_loss)(draft, given)
        assert mx.allclose(kept_chance(draft, given), chances, atol=1e-6)
    assert mx.allclose(loss, other_loss, atol=1e-6)
    assert mx.allclose(gradient, other_gradient, atol=1e-6)


def test_an_interrupt_within_numpy_is_not_lost() -> None:
    """numpy would take what a signal's handler raises, while it reads an array, for an array that cannot be read so."""
    reached = []

    def interrupted() -> None:
        with numpy_ops():
            signal.raise_signal(signal.SIGINT)
            reached.append(product(mx.ones((2, 2)), mx.ones((2, 2))))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_products_activations_and_attention_by_numpy_have_mlx_gradients() -> None:
    keys = mx.random.split(mx.random.key(0), 6)
    x, w, gate = (mx.random.normal(shape, key=key) for shape, key in zip([(2, 5, 8), (8, 6), (2, 5, 8)], keys))  # noqa: B905
    queries = mx.random.normal((2, 4, 7, 16), key=keys[3])
    stored = [mx.random.normal((2, 2, 7, 16), key=key) for key in keys[4:]]

    def plain_attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask="causal")

    def own_attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return attention(q, k, v, scale=0.25, mask="causal")

    def silu(g: mx.array, x: mx.array) -> mx.array:
        return g * mx.sigmoid(g) * x

    for own, plain, operands in (
        (product, lambda x, w: x @ w, [x, w]),
        (swiglu, silu, [gate, x]),
        (own_attention, plain_attention, [queries, *stored]),
    ):
        every = tuple(range(len(operands)))
        found, expected = (
            mx.value_and_grad(lambda *given, f=f: f(*given).square().sum(), argnums=every)(*operands)
            for f in (own, plain)
        )
        assert mx.allclose(found[0], expected[0], rtol=1e-4)
        assert all(mx.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(found[1], expected[1], strict=True))
