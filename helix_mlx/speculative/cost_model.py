"""What a cycle costs: a table measured once, corrected by the cycles of the current run."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.kalman import KalmanFilter

_NOISE = 0.15
"""Standard deviation of one cycle's logarithm of seconds: commits and other programs disturb some."""
_DRIFT = 0.03
"""How much the speed of the whole machine may drift per cycle."""
_WEAR = 0.002
"""How much the relative cost of one kind of cycle may drift: a hot chip slows wide passes most."""
_ANYTHING = 1e3
"""Initial uncertainty of the machine's speed: the table may come from elsewhere or be in other units."""
_TABLE_OFF, _GUESS_OFF = 0.1, 0.3
"""Initial uncertainty relative to plain cycles: of a measured table, and of a guessed one."""
_ELSEWHERE = 0.1
"""Extra uncertainty for another context length."""
_PLAIN_RUN = 6
"""Calls, and one cycle less that is plain, where the cost of one is not known."""
_PLAIN_AGAIN, _PLAIN_EVERY = 32, 256
"""Cycles with drafts after which plain ones are tried again, twice as many each time: what was a guess is seen again
soon, and the machine may have changed."""

CycleKind = tuple[int, bool]
"""K, and whether the draft model was asked."""
_MACHINE, _ROWS, _DRAFTS = "machine", "rows", "drafts"
"""Why cycles deviate from the table: all of them, those with several rows, those with the draft model."""


@dataclass(frozen=True)
class CostTable:
    """Seconds of the parts of a cycle, for a given batch size and context length.

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
        """An estimate for several sequences from their total rows; extrapolated past eight rows."""
        slope = max(0.0, self.target_s[-1] - self.target_s[-4]) / 3

        def rows_s(rows: int) -> float:
            return self.target_s[rows - 1] if rows <= len(self.target_s) else self.target_s[-1] + slope * (rows - 8)

        costs = tuple(rows_s(sequences * (count + 1)) for count in range(MAX_DRAFT_TOKENS + 1))
        # A draft step is assumed to scale with rows as a target pass does.
        return CostTable(costs, self.draft_s * costs[0] / self.target_s[0], self.draft_read_s)


class CostModel:
    """The cost of a cycle with K drafts: the table's, corrected by measured cycles.

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
        """Whether the next cycle should be plain, to learn its cost; each call counts as a cycle.

        With only drafting cycles, a machine that is slow at drafting cannot be told from a slow machine.
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
        """Expected seconds of a cycle with K drafts."""
        key = count, uses_model and count > 0
        if key not in self._known:
            self._known[key] = self.cost_table.cycle_s(*key) * math.exp(self._off.expected(_causes(key)))
        return self._known[key]

    @property
    def draft_s(self) -> float:
        """Expected seconds of a draft step."""
        return self.cost_table.draft_s * math.exp(self._off.expected((_MACHINE, _DRAFTS)))

    def carried(self) -> CostModel:
        """A starting point for another context length."""
        other = CostModel(self.cost_table, guessed=True)
        other._off = self._off.copied(_ELSEWHERE)
        return other


def _causes(key: CycleKind) -> tuple[Hashable, ...]:
    """The causes that affect a cycle; plain cycles measure the machine itself."""
    if not key[0]:
        return (_MACHINE,)
    return (_MACHINE, _ROWS, _DRAFTS, key) if key[1] else (_MACHINE, _ROWS, key)
