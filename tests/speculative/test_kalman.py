from __future__ import annotations

import random

import pytest

from helix_mlx.speculative.kalman import KalmanFilter


def made(**spreads: float) -> KalmanFilter:
    found = KalmanFilter(noise=0.1)
    for cause, spread in spreads.items():
        found.add_variance(cause, spread)
    return found


def test_one_cause_is_the_mean_of_what_was_measured() -> None:
    """With a wide prior and nothing that moves, the filter is least squares."""
    found = made(a=100.0)
    draws = [random.Random(1).gauss(0.5, 0.1) for _ in range(20)]
    for value in draws:
        found.note(["a"], value)
    assert found.expected(["a"]) == pytest.approx(sum(draws) / len(draws), rel=1e-4)


def test_what_is_well_known_does_not_take_the_blame() -> None:
    found = made(known=0.01, unknown=0.5)
    for _ in range(20):
        found.note(["known", "unknown"], 1.0)
    assert found.expected(["unknown"]) > 0.9
    assert abs(found.expected(["known"])) < 0.01


def test_two_causes_that_were_only_seen_together_are_told_apart_by_one_alone() -> None:
    found = made(a=0.5, b=0.5)
    for _ in range(50):
        found.note(["a", "b"], 1.0)
    assert found.expected(["a"]) == pytest.approx(0.5, abs=0.02)
    for _ in range(50):
        found.note(["a"], 0.0)
    assert found.expected(["a"]) == pytest.approx(0.0, abs=0.05)
    assert found.expected(["b"]) == pytest.approx(1.0, abs=0.1)


def test_what_is_far_off_counts_as_less() -> None:
    calm, startled = made(a=0.05), made(a=0.05)
    calm.note(["a"], 0.2)
    startled.note(["a"], 50.0)
    assert 0 < startled.expected(["a"]) < 2 * calm.expected(["a"])


def test_a_cause_that_may_have_moved_is_followed() -> None:
    still, moves = made(a=0.5), made(a=0.5)
    for value in [0.0] * 100 + [0.3] * 20:
        moves.add_variance("a", 0.05)
        for found in (still, moves):
            found.note(["a"], value)
    assert moves.expected(["a"]) == pytest.approx(0.3, abs=0.02)
    assert still.expected(["a"]) < 0.1


def test_a_copy_goes_its_own_way_and_learns_faster() -> None:
    found = made(a=0.5)
    for _ in range(50):
        found.note(["a"], 0.0)
    other = found.copied(spread=0.2)
    for each in (found, other):
        each.note(["a"], 0.2)
    assert other.expected(["a"]) > 4 * found.expected(["a"])


def test_a_cause_that_is_not_there_adds_nothing() -> None:
    found = made(a=0.5)
    assert "a" in found
    assert "b" not in found
    assert found.expected(["a", "b"]) == 0.0
