"""What a cycle costs: a ladder measured once, corrected by what the cycles of this run really take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from helix_mlx.request import MAX_DRAFT_TOKENS

_TRUST = 1.0
"""How many cycles the ladder counts as, against those that were measured."""
_MEMORY = 0.97
"""What is left of a measurement's weight after the next one of its kind."""
_SPREAD = 0.5
"""A cycle counts as at most e^0.5 times longer or shorter than expected: commits and other programs disturb some."""
_CARRIED = 0.1
"""What is left of every weight for another length of context: a place to begin."""
_PLAIN_RUN = 6
"""Calls, and one cycle less that is plain, where the cost of one is not known."""
_PLAIN_AGAIN, _PLAIN_EVERY = 32, 256
"""Cycles with drafts after which plain ones are tried again, twice as many each time: what was a guess is seen again
soon, and the machine may have changed."""

Kind = tuple[int, bool]
"""K, and whether the draft model was asked."""


@dataclass(frozen=True)
class CostLadder:
    """Seconds of the parts of a cycle, for a number of sequences and a length of context.

    Args:
        target_s: of a target pass of 1..8 rows a sequence.
        draft_s: of one step of the draft model; 0 without one.
        draft_read_s: of a token that the draft reads of a text that is known, many in one pass.
    """

    target_s: tuple[float, ...]
    draft_s: float
    draft_read_s: float = 0.0

    def __post_init__(self) -> None:
        assert len(self.target_s) == MAX_DRAFT_TOKENS + 1
        assert min(self.target_s) > 0 <= self.draft_s

    def cycle_s(self, count: int, asks_model: bool = True) -> float:
        """A cycle of K drafts."""
        return self.target_s[count] + count * self.draft_s * asks_model

    def for_batch(self, sequences: int) -> CostLadder:
        """A guess for several sequences, from the rows of all of them; past eight rows as the last ones grow."""
        slope = max(0.0, self.target_s[-1] - self.target_s[-4]) / 3

        def rows_s(rows: int) -> float:
            return self.target_s[rows - 1] if rows <= len(self.target_s) else self.target_s[-1] + slope * (rows - 8)

        costs = tuple(rows_s(sequences * (count + 1)) for count in range(MAX_DRAFT_TOKENS + 1))
        # A draft's step grows with its rows as a target's does.
        return CostLadder(costs, self.draft_s * costs[0] / self.target_s[0], self.draft_read_s)


class Costs:
    """The cost of a cycle of K drafts: the ladder's, corrected by measured cycles of that K, and by all of them.

    Args:
        ladder: where to begin.
        guessed: whether it was made for this number of sequences and length of context, or is a guess.
    """

    def __init__(self, ladder: CostLadder, guessed: bool = False) -> None:
        self.ladder = ladder
        self._owed = _PLAIN_RUN if guessed else 0
        self._again = _PLAIN_AGAIN if guessed else _PLAIN_EVERY
        self._without = 0
        self._begins = guessed
        # The mean logarithm of measured by expected, and its weight.
        self._off: dict[Kind, tuple[float, float]] = {}
        self._whole = 0.0
        self._known: dict[Kind, float] = {}

    def owes_plain(self) -> bool:
        """Whether the next cycle should be a plain one, to learn what that takes; each call counts as a cycle.

        As long as only cycles with drafts are seen, a machine that is slow at those looks slow as a whole.
        """
        if not self._owed and self._without >= self._again:
            self._owed, self._without = _PLAIN_RUN, 0
            self._again, self._begins = min(2 * self._again, _PLAIN_EVERY), True
        self._owed -= self._owed > 0
        return self._owed > 0

    def note(self, count: int, asks_model: bool, seconds: float) -> None:
        """A cycle of K drafts took so long.

        The first of the plain ones that are owed does not count: only those behind it were enqueued before the one in
        front of them was read.
        """
        if seconds <= 0:
            return
        self._without = self._without + 1 if count else 0
        if self._begins and not count:
            self._begins = False
            return
        key = count, asks_model and count > 0
        off = math.log(seconds / self.ladder.cycle_s(*key))
        if self._off:
            # The first one is taken as it is: the machine may be slower as a whole than when the ladder was made.
            expected = self._expected(key)
            off = max(min(off, expected + _SPREAD), expected - _SPREAD)
        mean, weight = self._off.get(key, (0.0, 0.0))
        weight = weight * _MEMORY + 1.0
        self._off[key] = mean + (off - mean) / weight, weight
        shares = [(mean, weight / (weight + _TRUST)) for mean, weight in self._off.values()]
        self._whole = sum(mean * share for mean, share in shares) / sum(share for _, share in shares)
        self._known.clear()

    def cycle_s(self, count: int, asks_model: bool = True) -> float:
        """What a cycle of K drafts is expected to take."""
        key = count, asks_model and count > 0
        if key not in self._known:
            self._known[key] = self.ladder.cycle_s(*key) * math.exp(self._expected(key))
        return self._known[key]

    @property
    def draft_s(self) -> float:
        """What a step of the draft model is expected to take."""
        return self.ladder.draft_s * math.exp(self._whole)

    def carried(self) -> Costs:
        """Where to begin for another length of context."""
        other = Costs(self.ladder, guessed=True)
        other._off = {key: (mean, weight * _CARRIED) for key, (mean, weight) in self._off.items()}
        other._whole = self._whole
        return other

    def _expected(self, key: Kind) -> float:
        mean, weight = self._off.get(key, (self._whole, 0.0))
        return (mean * weight + self._whole * _TRUST) / (weight + _TRUST)
