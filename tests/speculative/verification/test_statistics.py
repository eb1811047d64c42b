"""The text has the target's distribution: chi-square over the production code from `draft_token` to `verify`."""

from __future__ import annotations

import numpy as np
import pytest

from helix_mlx.request import SamplingParams
from tests.speculative.verification.markov import (
    PLAIN,
    Drafter,
    Markov,
    Sequences,
    cycle,
    generate,
    many_cycle_complaints,
    one_cycle_complaints,
)

SAMPLING = ["token", "block", "coupled"]
FILTERED = SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.02)


@pytest.mark.parametrize("rule", SAMPLING)
def test_one_cycle_narrow_and_adversarial(rule: str) -> None:
    assert one_cycle_complaints(rule, Markov.adversarial(16, seed=0), 200_000) == []


@pytest.mark.parametrize("rule", SAMPLING)
def test_one_cycle_wide(rule: str) -> None:
    model = Markov.adversarial(2048, seed=1, spread=2.5)
    assert one_cycle_complaints(rule, model, 3000, count=1) == []


@pytest.mark.parametrize("rule", SAMPLING)
@pytest.mark.parametrize("drafter", ["model", "one-hot"])
def test_one_cycle_filtered(rule: str, drafter: Drafter) -> None:
    model = Markov.unrelated(16, seed=2)
    assert one_cycle_complaints(rule, model, 25_000, drafter=drafter, params=FILTERED) == []


@pytest.mark.parametrize("rule", SAMPLING)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_other_draft_lengths(rule: str, count: int) -> None:
    assert one_cycle_complaints(rule, Markov.unrelated(8, seed=3), 25_000, count=count) == []
    assert one_cycle_complaints(rule, Markov.unrelated(8, seed=4), 25_000, count=count, drafter="one-hot") == []


@pytest.mark.parametrize("rule", SAMPLING)
def test_many_cycles(rule: str) -> None:
    assert many_cycle_complaints(rule, 50_000) == []


def test_block_keeps_more_than_token_and_both_more_than_coupled() -> None:
    model = Markov.unrelated(16, seed=6)
    rates = {}
    for rule in SAMPLING:
        running = Sequences.start(np.arange(20_000), [PLAIN] * 20_000, [rule] * 20_000)
        rates[rule] = generate(model, running, [4], 5)[1]
    assert rates["block"] > rates["token"] + 0.02
    assert rates["token"] > rates["coupled"]


@pytest.mark.parametrize("rule", SAMPLING)
def test_a_draft_that_is_the_target_is_always_kept(rule: str) -> None:
    model = Markov.unrelated(300, seed=7)
    model = Markov(model.target_logits, model.target_logits)
    for params in (PLAIN, FILTERED):
        running = Sequences.start(np.arange(500), [params] * 500, [rule] * 500)
        _, gained, _ = cycle(model, running, 4)
        # In rounding p / q may fall below 1 by 1e-7; it does not here, both sides being the same sums.
        assert (gained == 5).all()
