"""The replay of the scheduler without a model: what it draws, and that its figures hang together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helix_mlx.bench.studies.capacity import (
    LONGEST,
    MEANS,
    Case,
    draw,
    lines,
    mean_resident,
    padded,
    padded_at_once,
    pages_at_once,
)

CASE = Case(sigma=0.7, page_size=16, drafts=0, budget=4 * LONGEST, steps=400, warm_up=200, seed=0)


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return draw(CASE)


def test_lengths_have_the_means_that_were_asked_for_and_fit_a_context(lengths: np.ndarray) -> None:
    assert lengths.min() >= 1
    assert lengths.sum(axis=1).max() <= LONGEST
    assert lengths.mean(axis=0) == pytest.approx(MEANS, rel=0.02)
    assert np.array_equal(lengths, draw(CASE))
    assert not np.array_equal(lengths[:100], draw(replace(CASE, seed=1))[:100])


def test_what_a_sequence_holds_on_average_is_its_prompt_and_half_of_its_answer() -> None:
    assert mean_resident(np.array([[10, 4]])) == 12.0
    assert mean_resident(np.array([[10, 4], [0, 12]])) == pytest.approx((10 * 4 + 8 + 72) / 16)


def test_pages_hold_more_at_once_than_reservations_and_than_padding(lengths: np.ndarray) -> None:
    ours, theirs = pages_at_once(CASE, lengths), padded_at_once(CASE, lengths)
    assert ours.at_once > theirs.at_once > 0
    assert ours.at_once > CASE.budget // LONGEST
    assert 0 < ours.unused_fraction < theirs.unused_fraction < 1
    assert ours.at_once * mean_resident(lengths) < 1.1 * CASE.budget
    assert ours == pages_at_once(CASE, lengths)
    rows = lines(CASE, lengths, ours, theirs)
    assert [row[0].strip() for row in rows] == ["pages of 16", "mlx-lm's batch cache", "reservation"]


def test_mlx_lm_is_given_the_most_rows_that_never_pass_the_budget(lengths: np.ndarray) -> None:
    rows = padded_at_once(CASE, lengths).most
    assert padded(CASE, lengths, rows)[1] <= CASE.budget
    assert padded(CASE, lengths, rows + 1)[1] > CASE.budget


def test_larger_pages_waste_more_and_drafts_say_more(lengths: np.ndarray) -> None:
    plain = pages_at_once(CASE, lengths)
    assert pages_at_once(replace(CASE, page_size=64), lengths).unused_fraction > plain.unused_fraction
    assert pages_at_once(replace(CASE, drafts=4), lengths).tokens > 1.5 * plain.tokens
