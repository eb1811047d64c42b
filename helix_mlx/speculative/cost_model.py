"""What a cycle costs: a cost table measured once, corrected by what the cycles of this run really take."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.kalman import KalmanFilter

_NOISE = 0.15
"""Standard deviation of one cycle's logarithm of seconds: commits and other programs disturb some."""
_DRIFT = 0.03
"""By how much the machine as a whole may become faster or slower from one cycle to the next."""
_WEAR = 0.002
"""By how much a kind of cycle may become dearer beside the others: a hot chip punishes wide passes."""
_ANYTHING = 1e3
"""Nothing is known of how fast it is: the cost table may have been made elsewhere, or in another unit."""
_TABLE_OFF, _GUESS_OFF = 0.1, 0.3
"""How far a cost table that was measured is off beside plain cycles, and one that was guessed."""
_ELSEWHERE = 0.1
"""How far all that may be off for another length of context: a place to begin."""
_PLAIN_RUN = 6
"""Calls, and one cycle less that is plain, where the cost of one is not known."""
_PLAIN_AGAIN, _PLAIN_EVERY = 32, 256
"""Cycles with drafts after which plain ones are tried again, twice as many each time: what was a guess is seen again
soon, and the machine may have changed."""

CycleKind = tuple[int, bool]
"""K, and whether the draft model was asked."""
_MACHINE, _ROWS, _DRAFTS = "machine", "rows", "drafts"
"""Why cycles take longer than the table says: all of them, those of several rows, those that ask the draft model."""


@dataclass(frozen=True)
class CostTable:
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
        assert all(map(math.isfinite, (*self.target_s, self.draft_s, self.draft_read_s)))

    def cycle_s(self, count: int, uses_model: bool = True) -> float:
        """A cycle of K drafts."""
        assert 0 <= count < len(self.target_s), f"a table of K = 0..{len(self.target_s) - 1} was asked for K = {count}"
        return self.target_s[count] + count * self.draft_s * uses_model

    def for_batch(self, sequences: int) -> CostTable:
        """A guess for several sequences, from the rows of all of them; past eight rows as the last ones grow."""
        slope = max(0.0, self.target_s[-1] - self.target_s[-4]) / 3

        def rows_s(rows: int) -> float:
            return self.target_s[rows - 1] if rows <= len(self.target_s) else self.target_s[-1] + slope * (rows - 8)

        costs = tuple(rows_s(sequences * (count + 1)) for count in range(MAX_DRAFT_TOKENS + 1))
        # A draft's step grows with its rows as a target's does.
        return CostTable(costs, self.draft_s * costs[0] / self.target_s[0], self.draft_read_s)


class CostModel:
    """The cost of a cycle of K drafts: the cost table's, corrected by the cycles that were measured.

    A machine's speed changes as a whole, and one kind of cycle may be seen while it is fast, another while it is slow.
    What is slow beside others seen at about the same time is told apart from a machine that is slow.

    Args:
        cost_table: where to begin.
        guessed: whether it was made for this number of sequences and length of context, or is a guess.
    """

    def __init__(self, cost_table: CostTable, guessed: bool = False) -> None:
        self.cost_table = cost_table
        self._plain_samples_needed = _PLAIN_RUN if guessed else 0
        self._again = _PLAIN_AGAIN if guessed else _PLAIN_EVERY
        self._without = 0
        self._begins = guessed
        self._spread = _GUESS_OFF if guessed else _TABLE_OFF
        self._off = KalmanFilter(_NOISE)
        self._off.add_variance(_MACHINE, _ANYTHING)
        self._known: dict[CycleKind, float] = {}

    def needs_plain_sample(self) -> bool:
        """Whether the next cycle should be a plain one, to learn what that takes; each call counts as a cycle.

        As long as only cycles with drafts are seen, a machine that is slow at those looks slow as a whole.
        """
        if not self._plain_samples_needed and self._without >= self._again:
            self._plain_samples_needed, self._without = _PLAIN_RUN, 0
            self._again, self._begins = min(2 * self._again, _PLAIN_EVERY), True
        self._plain_samples_needed -= self._plain_samples_needed > 0
        return self._plain_samples_needed > 0

    def note(self, count: int, uses_model: bool, seconds: float) -> None:
        """A cycle of K drafts took so long.

        The first of the plain ones that are needed does not count: only those behind it were enqueued before the one in
        front of them was read.
        """
        if seconds <= 0:
            return
        self._without = self._without + 1 if count else 0
        if self._begins and not count:
            self._begins = False
            return
        key = count, uses_model and count > 0
        causes = _causes(key)
        for cause in causes[1:]:
            self._off.add_variance(cause, _WEAR if cause in self._off else self._spread)
        self._off.add_variance(_MACHINE, _DRIFT)
        self._off.note(causes, math.log(seconds / self.cost_table.cycle_s(*key)))
        self._known.clear()

    def cycle_s(self, count: int, uses_model: bool = True) -> float:
        """What a cycle of K drafts is expected to take."""
        key = count, uses_model and count > 0
        if key not in self._known:
            self._known[key] = self.cost_table.cycle_s(*key) * math.exp(self._off.expected(_causes(key)))
        return self._known[key]

    @property
    def draft_s(self) -> float:
        """What a step of the draft model is expected to take."""
        return self.cost_table.draft_s * math.exp(self._off.expected((_MACHINE, _DRAFTS)))

    def carried(self) -> CostModel:
        """Where to begin for another length of context."""
        other = CostModel(self.cost_table, guessed=True)
        other._off = self._off.copied(_ELSEWHERE)
        return other


def _causes(key: CycleKind) -> tuple[Hashable, ...]:
    """Of what a cycle deviates; plain ones are what the machine is measured by."""
    if not key[0]:
        return (_MACHINE,)
    return (_MACHINE, _ROWS, _DRAFTS, key) if key[1] else (_MACHINE, _ROWS, key)
