from __future__ import annotations

import random

import pytest

from helix_mlx.speculative.acceptance import Acceptance, BatchAcceptance, expected_tokens


def test_expected_tokens_of_equal_chances_are_the_closed_form() -> None:
    """(1 - a^(K+1)) / (1 - a), Leviathan and others."""
    for chance in (0.0, 0.3, 0.9):
        for count, tokens in enumerate(expected_tokens([chance] * 7)):
            assert tokens == pytest.approx((1 - chance ** (count + 1)) / (1 - chance))


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.95])
def test_the_estimate_comes_near_the_truth(chance: float) -> None:
    draws = random.Random(1)
    acceptance = Acceptance()
    found = []
    for _ in range(400):
        kept = 0
        while kept < 4 and draws.random() < chance:
            kept += 1
        acceptance.note(4, kept)
        found.append(acceptance.chances()[0])
    assert sum(found[100:]) / 300 == pytest.approx(chance, abs=0.05)


def test_positions_that_were_never_reached_count_like_the_one_before() -> None:
    acceptance = Acceptance()
    for _ in range(50):
        acceptance.note(2, 0)
    chances = acceptance.chances()
    assert chances[0] < 0.2
    assert chances[1:] == [chances[0]] * 6
    for _ in range(100):
        acceptance.note(2, 1)
    assert acceptance.chances()[0] > 0.9 > 0.2 > acceptance.chances()[1]


def test_what_has_faded_yields_to_what_comes() -> None:
    old, faded = Acceptance(), Acceptance()
    for each in (old, faded):
        for _ in range(100):
            each.note(1, 0)
    faded.discount()
    for each in (old, faded):
        for _ in range(4):
            each.note(1, 1)
    assert faded.chances()[0] > 2 * old.chances()[0]


def test_together_is_the_mean_and_who_has_none_gains_nothing() -> None:
    good, bad = Acceptance(), Acceptance()
    for _ in range(80):
        good.note(4, 4)
        bad.note(4, 0)
    both = BatchAcceptance([(good, 7), (bad, 7)])
    assert both.tokens()[4] == pytest.approx((good.tokens()[4] + bad.tokens()[4]) / 2)
    assert both.chances()[0] == pytest.approx((good.chances()[0] + bad.chances()[0]) / 2)
    half = BatchAcceptance([(good, 2), None])
    assert half.tokens()[7] == pytest.approx((good.tokens()[2] + 1.0) / 2)
    assert half.chances() == good.chances()
    half.discount()
    good.note(1, 0)
    other = Acceptance()
    for _ in range(80):
        other.note(4, 4)
    other.note(1, 0)
    assert good.chances()[0] < other.chances()[0]
