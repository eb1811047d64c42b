from __future__ import annotations

import random

import pytest

from helix_mlx.speculative.costs import CostLadder, Costs

LADDER = CostLadder((1.0, 1.1, 1.2, 1.3, 1.4, 1.8, 2.0, 2.2), draft_s=0.2)


def test_the_ladder_is_where_it_begins() -> None:
    costs = Costs(LADDER)
    assert costs.cycle_s(0) == 1.0
    assert costs.cycle_s(4) == pytest.approx(1.4 + 0.8)
    assert costs.cycle_s(4, asks_model=False) == 1.4


def test_a_slower_machine_is_seen_at_once_for_every_k() -> None:
    costs = Costs(LADDER)
    costs.note(0, False, 3.0)
    assert costs.cycle_s(0) == pytest.approx(3.0)
    assert costs.cycle_s(7) == pytest.approx(3 * LADDER.cycle_s(7))


def test_a_k_that_costs_more_than_the_ladder_says_is_learnt() -> None:
    costs = Costs(LADDER)
    draws = random.Random(0)
    for _ in range(200):
        costs.note(0, False, draws.lognormvariate(0, 0.1))
        costs.note(4, True, 3.3 * draws.lognormvariate(0, 0.1))
    assert costs.cycle_s(4) / costs.cycle_s(0) == pytest.approx(3.3, rel=0.1)


def test_a_cycle_that_was_disturbed_moves_little() -> None:
    costs = Costs(LADDER)
    for _ in range(30):
        costs.note(2, True, LADDER.cycle_s(2))
    costs.note(2, True, 1000.0)
    assert costs.cycle_s(2) < 1.1 * LADDER.cycle_s(2)
