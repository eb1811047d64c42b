"""Drawing tokens by inverting the distribution function."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.sampling.draw import draw


@pytest.mark.parametrize("vocab", [1, 3, 128, 129, 300, 1000])
def test_frequencies_are_the_probabilities(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    weights = rng.gamma(0.3, size=vocab).astype(np.float32) * (rng.random(vocab) < 0.7)
    weights[vocab // 2] = 1.0
    n = 20000
    numbers = mx.array((rng.random((n, 2)) * 0.999999 + 1e-9).astype(np.float32))
    tokens = np.array(draw(mx.broadcast_to(mx.array(weights), (n, vocab)), numbers))
    counts = np.bincount(tokens, minlength=vocab)
    expected = n * weights / weights.sum()
    assert counts.shape == (vocab,)
    assert not counts[weights == 0].any()
    big = expected >= 5
    chi2 = ((counts - expected)[big] ** 2 / expected[big]).sum()
    assert chi2 < big.sum() + 6 * np.sqrt(2 * big.sum())


@pytest.mark.parametrize("vocab", [5, 300])
def test_the_ends_of_the_range_meet_no_impossible_token(vocab: int) -> None:
    weights = np.zeros((4, vocab), np.float32)
    weights[:, 2] = [1.0, 1e-38, 0.3, 1e30]
    weights[2, 4] = 1e-12
    for number in (2.0**-33, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))):
        tokens = np.array(draw(mx.array(weights), mx.full((4, 2), number)))
        assert (weights[np.arange(4), tokens] > 0).all()


def test_small_probabilities_at_the_end_are_not_lost() -> None:
    # A running sum in float32 would never get past 1.0 here.
    weights = np.zeros((1, 4096), np.float32)
    weights[0, 0], weights[0, 2048:] = 1.0, 2e-8
    mass = 2048 * 2e-8 / (1 + 2048 * 2e-8)
    numbers = np.full((1000, 2), 1 - mass / 2, np.float32)
    numbers[:, 1] = (np.arange(1000) + 0.5) / 1000
    tokens = np.array(draw(mx.broadcast_to(mx.array(weights), (1000, 4096)), mx.array(numbers)))
    assert (tokens >= 2048).all()
    assert len(np.unique(tokens)) > 100


def test_rows_are_independent() -> None:
    rng = np.random.default_rng(0)
    weights, numbers = mx.array(rng.random((6, 777), np.float32)), mx.array(rng.random((6, 2), np.float32))
    together = np.array(draw(weights, numbers))
    alone = [draw(weights[i : i + 1], numbers[i : i + 1]).tolist() for i in range(6)]
    assert alone == [[token] for token in together]
