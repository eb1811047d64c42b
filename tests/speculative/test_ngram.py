from __future__ import annotations

import random

from helix_mlx.speculative.ngram import SIZES, NgramLookup


def plainly(tokens: list[int], count: int) -> list[int]:
    """The definition: the longest end that stands in the sequence before, where it stood last."""
    for size in SIZES:
        for start in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[start - size : start] == tokens[-size:]:
                found = tokens[start:]
                while len(found) < count:
                    found = found + found
                return found[:count]
    return []


def test_it_finds_what_a_search_finds_as_the_sequence_grows() -> None:
    draws = random.Random(0)
    for _ in range(60):
        lookup, tokens = NgramLookup(), [draws.randrange(4) for _ in range(draws.randint(1, 20))]
        for _ in range(40):
            count = draws.randint(1, 7)
            assert lookup.propose(tokens, count) == plainly(tokens, count)
            tokens += [draws.randrange(4) for _ in range(draws.randint(1, 3))]


def test_the_longest_match_goes_first() -> None:
    tokens = [1, 2, 3, 9, 9, 2, 3, 7, 1, 2, 3]
    assert NgramLookup().propose(tokens, 2) == [9, 9]
    assert NgramLookup().propose(tokens[1:], 2) == [7, 1]


def test_a_repetition_goes_on_behind_the_end() -> None:
    assert NgramLookup().propose([5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]


def test_nothing_is_found_where_nothing_repeats() -> None:
    assert NgramLookup().propose([1, 2, 3, 4, 5], 4) == []
    assert NgramLookup().propose([1], 4) == []
