from __future__ import annotations

import math
import random

import pytest

from helix_mlx.speculative.cost_model import CostModel, CostTable

COSTS = CostTable((1.0, 1.1, 1.2, 1.3, 1.4, 1.8, 2.0, 2.2), draft_s=0.2)


def test_the_cost_table_is_where_it_begins() -> None:
    costs = CostModel(COSTS)
    assert costs.cycle_s(0) == 1.0
    assert costs.cycle_s(4) == pytest.approx(1.4 + 0.8)
    assert costs.cycle_s(4, uses_model=False) == 1.4


def test_a_slower_machine_is_seen_at_once_for_every_k() -> None:
    costs = CostModel(COSTS)
    costs.note(0, False, 3.0)
    assert costs.cycle_s(0) == pytest.approx(3.0)
    assert costs.cycle_s(7) == pytest.approx(3 * COSTS.cycle_s(7))


def test_a_k_that_costs_more_than_the_cost_table_says_is_learnt() -> None:
    costs = CostModel(COSTS)
    draws = random.Random(0)
    for _ in range(200):
        costs.note(0, False, draws.lognormvariate(0, 0.1))
        costs.note(4, True, 3.3 * draws.lognormvariate(0, 0.1))
    assert costs.cycle_s(4) / costs.cycle_s(0) == pytest.approx(3.3, rel=0.1)


def test_a_machine_that_gets_slow_now_and_then_is_not_taken_for_dear_drafts() -> None:
    """Each kind of cycle is seen for a while, on a machine whose speed wanders by half meanwhile."""
    costs, draws = CostModel(COSTS), random.Random(0)
    found = []
    for cycle in range(3000):
        speed = 1.0 + 0.5 * math.sin(cycle / 150)
        count = 0 if cycle // 100 % 2 else 2
        true = COSTS.cycle_s(count) * (1.2 if count else 1.0)
        costs.note(count, True, true * speed * draws.lognormvariate(0, 0.15))
        found.append(costs.cycle_s(2) / costs.cycle_s(0))
    assert all(ratio == pytest.approx(1.2 * COSTS.cycle_s(2), rel=0.08) for ratio in found[600:])


def test_a_chip_that_has_become_hot_is_noticed_after_a_long_time() -> None:
    """Wide passes cost more then, plain ones do not."""
    costs = CostModel(COSTS)
    for factor, cycles in ((1.0, 20_000), (1.3, 400)):
        for _ in range(cycles // 4):
            costs.note(0, False, 1.0)
            for _ in range(3):
                costs.note(4, True, factor * COSTS.cycle_s(4))
        assert costs.cycle_s(4) / costs.cycle_s(0) == pytest.approx(factor * COSTS.cycle_s(4), rel=0.03)


def test_what_one_k_costs_more_is_expected_of_its_neighbours() -> None:
    costs = CostModel(COSTS)
    for _ in range(50):
        costs.note(0, False, 1.0)
        costs.note(3, True, 1.3 * COSTS.cycle_s(3))
    assert costs.cycle_s(3) == pytest.approx(1.3 * COSTS.cycle_s(3), rel=0.03)
    assert 1.1 * COSTS.cycle_s(4) < costs.cycle_s(4) < costs.cycle_s(3) / COSTS.cycle_s(3) * COSTS.cycle_s(4)
    assert COSTS.cycle_s(4, False) < costs.cycle_s(4, False) < costs.cycle_s(4)


def test_a_plain_cycle_is_needed_where_its_cost_is_a_guess_and_from_time_to_time() -> None:
    assert not CostModel(COSTS).needs_plain_sample()
    guessed = CostModel(COSTS, guessed=True)
    assert [guessed.needs_plain_sample() for _ in range(7)] == [True] * 5 + [False] * 2
    for rest in (32, 64, 128, 256, 256):
        for _ in range(rest):
            assert not guessed.needs_plain_sample()
            guessed.note(4, True, COSTS.cycle_s(4))
        assert [guessed.needs_plain_sample() for _ in range(7)] == [True] * 5 + [False] * 2
        guessed.note(0, False, COSTS.cycle_s(0))


def test_the_first_of_the_plain_cycles_that_are_needed_tells_nothing() -> None:
    """It was enqueued when the one in front had been read, those behind it before."""
    guessed = CostModel(COSTS, guessed=True)
    for seconds in (2.0, 1.1, 1.1, 1.1):
        guessed.note(0, False, seconds)
    assert guessed.cycle_s(0) == pytest.approx(1.1)


def test_another_length_of_context_begins_with_what_was_learnt() -> None:
    costs = CostModel(COSTS)
    for _ in range(50):
        costs.note(4, True, 3.0)
    other = costs.carried()
    assert other.cycle_s(4) == pytest.approx(costs.cycle_s(4), rel=0.2)
    assert other.needs_plain_sample()


def test_more_sequences_cost_what_their_rows_cost() -> None:
    two = COSTS.for_batch(2)
    assert two.target_s[:4] == (COSTS.target_s[1], COSTS.target_s[3], COSTS.target_s[5], COSTS.target_s[7])
    assert list(COSTS.for_batch(8).target_s) == sorted(COSTS.for_batch(8).target_s)
    assert COSTS.for_batch(1) == COSTS


def test_a_cycle_that_was_disturbed_moves_little() -> None:
    costs = CostModel(COSTS)
    for _ in range(30):
        costs.note(2, True, COSTS.cycle_s(2))
    costs.note(2, True, 1000.0)
    assert costs.cycle_s(2) < 1.1 * COSTS.cycle_s(2)
