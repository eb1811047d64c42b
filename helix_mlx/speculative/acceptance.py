"""A running estimate of acceptance by draft position, for one sequence and one drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from helix_mlx.request import MAX_DRAFT_TOKENS

PRIOR = 0.7
"""Prior acceptance before anything is known: a typical pair's. High, so that drafts are tried at all."""
PRIOR_WEIGHT = 6.0
"""The prior's weight, in drafts."""
MEMORY = 0.97
"""Decay of a cycle's weight per cycle: about 30 cycles count."""
FADED = 0.3
"""Decay of everything when drafting resumes after a pause."""


class Acceptance:
    """The chance that draft i is accepted given that all before it were, for i = 1..K.

    Older cycles count less. Positions never reached are assumed equal to the one before.

    Args:
        prior: the chance before anything was seen, such as that of other sequences of the same pair.
    """

    def __init__(self, prior: float = PRIOR) -> None:
        self.prior = prior
        self._kept = [0.0] * MAX_DRAFT_TOKENS
        self._seen = [0.0] * MAX_DRAFT_TOKENS
        self._guess = [
            PRIOR_WEIGHT
        ] * MAX_DRAFT_TOKENS  # the prior's remaining weight, which shrinks with every draft seen
        self._chances: list[float] | None = None
        self._tokens: list[float] | None = None

    def note(self, drafted: int, accepted: int) -> None:
        """A cycle of `drafted` drafts, of which the first `accepted` were kept."""
        assert 0 <= accepted <= drafted <= MAX_DRAFT_TOKENS
        self._chances = self._tokens = None
        for index in range(MAX_DRAFT_TOKENS):
            reached = index < min(accepted + 1, drafted)
            self._kept[index] = self._kept[index] * MEMORY + (reached and index < accepted)
            self._seen[index] = self._seen[index] * MEMORY + reached
            # Untried positions decay as well, so that they are tried again.
            guess = self._guess[index] * MEMORY
            self._guess[index] = guess if reached else guess + PRIOR_WEIGHT * (1 - MEMORY)

    def discount(self) -> None:
        """Discount old observations, so that new ones outweigh them."""
        self._chances = self._tokens = None
        for numbers in (self._kept, self._seen, self._guess):
            numbers[:] = [number * FADED for number in numbers]

    def chances(self) -> list[float]:
        """The estimates for i = 1..7, each between 0 and 1."""
        if self._chances is None:
            self._chances, before = [], self.prior
            for kept, seen, guess in zip(self._kept, self._seen, self._guess, strict=True):
                before = (kept + guess * before) / (seen + guess)
                self._chances.append(before)
        return self._chances

    def tokens(self) -> list[float]:
        """Expected tokens of a cycle with K drafts, for K = 0..7: the target's own, plus the accepted drafts."""
        if self._tokens is None:
            self._tokens = expected_tokens(self.chances())
        return self._tokens


class Estimate(Protocol):
    """Expected acceptance: of one sequence, or of several together."""

    def chances(self) -> list[float]:
        """The chance of draft i = 1..7 where all before it were kept."""
        ...

    def tokens(self) -> list[float]:
        """The expected tokens of a cycle, for K = 0..7."""
        ...

    def discount(self) -> None:
        """Discount most of what was seen."""
        ...


class BatchAcceptance:
    """The mean over the sequences of a batch.

    Args:
        parts: each sequence's estimate and the most drafts that it has; None for one that has none.
    """

    def __init__(self, parts: Sequence[tuple[Acceptance, int] | None]) -> None:
        assert parts
        self._parts = parts

    def chances(self) -> list[float]:
        """By position, over those that have drafts."""
        able = [part[0].chances() for part in self._parts if part]
        return [sum(column) / len(able) for column in zip(*able, strict=True)]

    def tokens(self) -> list[float]:
        """The mean per sequence; a sequence without further drafts gains nothing from more rows."""
        found = [1.0] * (MAX_DRAFT_TOKENS + 1)
        for part in self._parts:
            if part is None:
                continue
            tokens = part[0].tokens()
            for count in range(1, MAX_DRAFT_TOKENS + 1):
                found[count] += (tokens[min(count, part[1])] - 1.0) / len(self._parts)
        return found

    def discount(self) -> None:
        """Of all of them."""
        for part in self._parts:
            if part is not None:
                part[0].discount()


def expected_tokens(chances: Sequence[float]) -> list[float]:
    """1 + a1 + a1 a2 + ..., for K = 0..len(chances) (Leviathan and others, arXiv 2211.17192, by position)."""
    tokens, reached = [1.0], 1.0
    for chance in chances:
        reached *= chance
        tokens.append(tokens[-1] + reached)
    return tokens
