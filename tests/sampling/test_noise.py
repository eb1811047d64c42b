"""Random numbers depend on their key alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_mlx.sampling.noise import Purpose, cycle_words, fold_seed, gumbel, token_words, uniform

SEEDS = [0, 1, 7, 2**32 - 1, 0xDEADBEEF]
POSITIONS = [0, 1, 63, 64, 2**26 - 1]


def _seeds(seeds: list[int]) -> mx.array:
    return mx.array(seeds, mx.uint32)


def _int32(values: npt.ArrayLike) -> mx.array:
    return mx.array(np.asarray(values), mx.int32)


def test_one_key_at_a_time_gives_the_same_numbers() -> None:
    draws = [(Purpose.ACCEPT, 1), (Purpose.ACCEPT, 7), (Purpose.RESIDUAL, 0), (Purpose.DRAFT, 3)]
    together = np.array(uniform(_seeds(SEEDS), _int32(POSITIONS), draws))
    for row, (seed, position) in enumerate(zip(SEEDS, POSITIONS, strict=True)):
        for column, (purpose, index) in enumerate(draws):
            word = position << 6 | index << 3 | purpose
            key = mx.array([seed, word], mx.uint32)
            direct = np.array(mx.random.uniform(2.0**-33, 1.0, (2,), key=key))
            assert np.array_equal(together[row, column], direct)
            alone = uniform(_seeds([seed]), _int32([position]), [(purpose, index)])
            assert np.array_equal(together[row, column], np.array(alone)[0, 0])


@pytest.mark.parametrize("vocab", [1, 2, 37, 4096])
def test_gumbel_does_not_depend_on_batch_or_rows(vocab: int) -> None:
    at = np.array(POSITIONS)[:, None] // 2 + np.arange(5)
    together = np.array(gumbel(_seeds(SEEDS), _int32(at), vocab))
    assert together.shape == (5, 5, vocab)
    assert np.isfinite(together).all()
    for row, seed in enumerate(SEEDS):
        for column in range(5):
            alone = gumbel(_seeds([seed]), _int32(at[row : row + 1, column : column + 1]), vocab)
            assert np.array_equal(together[row, column], np.array(alone)[0, 0])


def test_every_key_has_numbers_of_its_own() -> None:
    draws = [(purpose, index) for purpose in (Purpose.DRAFT, Purpose.ACCEPT, Purpose.RESIDUAL) for index in range(8)]
    grid = [(seed, position) for seed in range(20) for position in range(20)]
    seeds, positions = _seeds([s for s, _ in grid]), _int32([p for _, p in grid])
    words = np.concatenate([np.array(cycle_words(positions, draws)), np.array(token_words(positions[:, None]))], axis=1)
    assert len({(s, w) for (s, _), row in zip(grid, words.tolist(), strict=True) for w in row}) == words.size
    numbers = np.array(uniform(seeds, positions, draws)).reshape(-1)
    # Floats of 24 bits collide now and then by chance; a shared key would collide by the hundred.
    assert len(np.unique(numbers)) > 0.99 * numbers.size


def test_numbers_are_uniform_and_gumbel() -> None:
    seeds = mx.arange(20000).astype(mx.uint32)
    positions = mx.full((20000,), 5, mx.int32)
    draws = [(Purpose.ACCEPT, 1), (Purpose.ACCEPT, 2), (Purpose.RESIDUAL, 0)]
    numbers = np.array(uniform(seeds, positions, draws)).reshape(20000, 6)
    assert (numbers > 0).all()
    assert (numbers < 1).all()
    counts = np.stack([np.bincount((column * 20).astype(int), minlength=20) for column in numbers.T])
    assert ((counts - 1000.0) ** 2 / 1000).sum(axis=1).max() < 19 + 6 * np.sqrt(2 * 19)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.04
    noise = np.array(gumbel(seeds[:2000], positions[:2000, None], 64))
    assert abs(noise.mean() - 0.57722) < 0.02
    assert abs(noise.var() - np.pi**2 / 6) < 0.05


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_fold_seed_is_32_bits_and_keeps_small_seeds(seed: int) -> None:
    assert 0 <= fold_seed(seed) < 2**32
    assert fold_seed(seed % 2**32) == seed % 2**32


def test_fold_seed_uses_the_upper_half() -> None:
    assert len({fold_seed(7 | high << 32) for high in range(1000)}) == 1000
    # The same bits in both halves must not cancel.
    assert fold_seed(5 | 5 << 32) != 0
