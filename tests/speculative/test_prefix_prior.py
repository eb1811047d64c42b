from __future__ import annotations

import pytest

from helix_mlx.speculative.prefix_prior import LENGTHS, MOST_KEPT, PrefixPrior, prefix_keys

CHAT, CODE = prefix_keys([1, 2, 3, 4, 5]), prefix_keys([9, 8, 7, 6, 5])


def noted(prior: PrefixPrior, begun: tuple[int, ...], kept: bool, times: int) -> PrefixPrior:
    for _ in range(times):
        prior.note(begun, kept)
    return prior


def test_beginnings_are_shared_as_far_as_prompts_are_alike() -> None:
    long, other = list(range(300)), [*range(20), *range(500, 800)]
    assert len(prefix_keys(long)) == sum(length <= 300 for length in LENGTHS)
    alike = [a == b for a, b in zip(prefix_keys(long), prefix_keys(other), strict=True)]
    assert alike == [length <= 20 for length in LENGTHS if length <= 300]
    assert prefix_keys([]) == prefix_keys([1])[:1]


def test_nothing_seen_is_the_prior() -> None:
    assert PrefixPrior(0.7).chance(CHAT) == 0.7
    assert PrefixPrior(0.7).chance(()) == 0.7


def test_what_begins_like_nothing_seen_has_the_mean_of_all() -> None:
    prior = noted(noted(PrefixPrior(0.7), CHAT, True, 100), CODE, False, 100)
    assert prior.chance(prefix_keys([50, 51])) == pytest.approx(0.5, abs=0.15)


def test_what_begins_alike_has_its_own_share() -> None:
    prior = PrefixPrior(0.7)
    for _ in range(20):
        prior.note(CHAT, True)
        prior.note(CODE, False)
    assert prior.chance(CHAT) > 0.9 > 0.1 > prior.chance(CODE)


def test_a_longer_beginning_counts_where_enough_of_it_was_seen() -> None:
    prior = noted(PrefixPrior(0.7), prefix_keys([1, 2, 3, 4]), True, 200)
    assert prior.chance(prefix_keys([1, 9, 9, 9])) > 0.9
    once = noted(prior, prefix_keys([1, 9, 9, 9]), False, 1).chance(prefix_keys([1, 9, 9, 9]))
    often = noted(prior, prefix_keys([1, 9, 9, 9]), False, 40).chance(prefix_keys([1, 9, 9, 9]))
    assert once > 0.75
    assert often < 0.3
    assert prior.chance(prefix_keys([1, 2, 3, 4])) > 0.9


def test_what_has_changed_is_learnt_anew() -> None:
    prior = noted(PrefixPrior(0.7), CHAT, False, 2000)
    assert noted(prior, CHAT, True, 600).chance(CHAT) > 0.9


def test_so_many_are_remembered_those_noted_last() -> None:
    prior = noted(PrefixPrior(0.7), CHAT, True, 50)
    for first in range(2 * MOST_KEPT):
        prior.note(prefix_keys([first + 10]), False)
        if first == MOST_KEPT // 2:
            noted(prior, CHAT, True, 1)
    assert len(prior._seen) == MOST_KEPT
    assert prior.chance(CHAT) < 0.2
    assert prior.chance(prefix_keys([2 * MOST_KEPT + 9])) < prior.chance(prefix_keys([20]))
