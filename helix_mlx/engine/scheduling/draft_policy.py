"""Who drafts in the next cycle, and how many: chosen for all sequences that leave it to the engine, and learnt from.

Rows of one pass are padded to the longest, so those who run together have one draft length; what is expected of the
drafts is each sequence's own, and so is whether its n-grams have anything to propose.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from helix_mlx.engine.scheduling.sequence import DRAFT_GAP, Sequence
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.acceptance import Acceptance, BatchAcceptance
from helix_mlx.speculative.cost_model import CostModel, CostTable
from helix_mlx.speculative.draft_length import (
    NO_DRAFT,
    PLAIN,
    Candidate,
    Choice,
    DraftLengthController,
    could_pay,
)
from helix_mlx.speculative.prefix_prior import PrefixPrior

REST = 7
"""Cycles without drafts that go on as they are, as long as token drafters have no more to propose than before."""
LONG_READ = 16
"""Tokens from which on a read tells what one of them costs."""
PLAIN_BASELINE = "to measure a cycle without drafts"
"""The reason given for a cycle without drafts that is run to measure its cost."""
_BUCKET = 1024
"""Positions from which on the cost of a cycle is learnt anew, at every doubling: attention reads them all."""


class DraftPolicy(Protocol):
    """Decides before each cycle; sequences with a draft length of their own are not asked."""

    def choose(self, decoding: Seq[Sequence], most: int) -> None:
        """Set `next_drafter` and `next_draft_tokens` of those who leave it open, for a cycle of all these sequences.

        Args:
            decoding: they have begun to answer.
            most: the largest K that the rows of one pass allow.
        """
        ...

    def wants_drafts(self, decoding: Seq[Sequence], most: int) -> bool:
        """Whether somebody should draft after the cycle in flight, in which nobody does, as far as is known now.

        Where nobody should, the next cycle runs so.
        """
        ...

    def note(self, outcomes: Seq[tuple[Sequence, int, int]], uses_model: bool, seconds: float | None) -> None:
        """What came of a cycle.

        Args:
            flown: each sequence with its K and the drafts that were kept.
            uses_model: whether the draft model was asked.
            seconds: since the cycle before was read; None where something else was done in between.
        """
        ...

    def note_read(self, tokens: int, seconds: float) -> None:
        """The draft model has read so many known tokens in one pass."""
        ...


class AdaptiveDraftPolicy:
    """Chooses by what a cycle costs and what is kept.

    Args:
        cost_table: what the parts of a cycle cost; measured, or an estimate to begin with.
        measured: which of both.
    """

    def __init__(self, cost_table: CostTable, measured: bool = False) -> None:
        self._length = DraftLengthController()
        self._priors: dict[tuple[str, int], PrefixPrior] = {}
        self.begin(cost_table, measured)

    def begin(self, cost_table: CostTable, measured: bool) -> None:
        """Take these costs, and forget those that were learnt."""
        self.cost_table, self._measured = cost_table, measured
        self._costs: dict[tuple[int, int], CostModel] = {}
        self._now: CostModel | None = None
        self._read_s: float | None = None
        self._parked_as: list[str] | None = None
        self._rested = self._plain_cycles = 0

    def choose(self, decoding: Seq[Sequence], most: int) -> None:
        """See `DraftPolicy.choose`."""
        if not decoding:
            return
        self._now = costs = self._costs_of(decoding)
        rested, self._rested, self._parked_as = self._rested, 0, None
        open_ = [s for s in decoding if s.drafting.is_adaptive]
        if not open_:
            return
        needs_plain = costs.needs_plain_sample()
        if needs_plain or not _could_pay(costs, decoding, open_, most):
            for sequence in open_:
                sequence.drafting.set_next(NO_DRAFT, 0)
                sequence.stats.draft_choice = PLAIN_BASELINE if needs_plain else PLAIN.reason
            return
        # One that joins many others is not worth trying for all of them what it alone may be good at.
        if 2 * sum(not s.drafting.max_drafts for s in open_) > len(open_):
            self._length.begin()
        candidates, plain_s = self._candidates(costs, decoding, open_, most)
        choice = self._length.weigh(candidates, plain_s, max(s.remaining for s in open_))
        self._length.commit_choice(choice, candidates, plain_s, cycles=1 + rested)
        self._rest(choice, open_)
        for sequence in open_:
            max_drafts = sequence.drafting.max_drafts.get(choice.drafter, 0)
            sequence.drafting.set_next(choice.drafter, min(choice.count, max_drafts))
            sequence.stats.draft_choice = choice.reason

    def wants_drafts(self, decoding: Seq[Sequence], most: int) -> bool:
        """See `DraftPolicy.wants_drafts`."""
        open_ = [s for s in decoding if s.drafting.is_adaptive]
        if not open_:
            return False
        costs = self._costs_of(decoding)
        if not _could_pay(costs, decoding, open_, most):
            self._rested = (self._rested + 1) % (REST + 1)
            return False
        if self._rested < REST and self._parked_as == self._matches(open_):
            self._rested += 1
            return False
        if costs.needs_plain_sample():
            return False
        candidates, plain_s = self._candidates(costs, decoding, open_, most)
        choice = self._length.weigh(candidates, plain_s, max(s.remaining for s in open_))
        if choice.count:
            return True
        self._length.commit_choice(choice, candidates, plain_s, cycles=1 + self._rested)
        self._rest(choice, open_)
        return False

    def note(self, outcomes: Seq[tuple[Sequence, int, int]], uses_model: bool, seconds: float | None) -> None:
        """See `DraftPolicy.note`."""
        if not any(count for _, count, _ in outcomes):
            self._plain_cycles += 1
            # Plain cycles are many and alike: where nobody waits to learn of them, a few tell enough.
            if self._rested or (self._plain_cycles % REST and not any(s.drafting.is_adaptive for s, _, _ in outcomes)):
                return
        if seconds is not None and self._now is not None:
            self._now.note(max(count for _, count, _ in outcomes), uses_model, seconds)
        drafted = accepted = 0
        for sequence, count, kept in outcomes:
            if not sequence.drafting.is_adaptive or not count:
                continue
            drafter = sequence.drafting.next_drafter
            kind = sequence.drafting.kind(drafter)
            self._estimate(sequence, drafter, kind).note(count, kept)
            self._prior_of(sequence, drafter, kind).note(sequence.prompt_keys, kept > 0)
            drafted, accepted = drafted + count, accepted + kept
        self._length.note(drafted, accepted)

    def note_read(self, tokens: int, seconds: float) -> None:
        """See `DraftPolicy.note_read`. Short reads cost a pass, whatever they read."""
        if tokens >= LONG_READ:
            found = max(0.0, seconds - self.cost_table.draft_s) / tokens
            self._read_s = found if self._read_s is None else 0.5 * (self._read_s + found)

    def _rest(self, choice: Choice, open_: list[Sequence]) -> None:
        """Where nobody drafts, that is not thought over again in every cycle."""
        self._rested = 0
        self._parked_as = None if choice.count else self._matches(open_)

    @staticmethod
    def _matches(open_: list[Sequence]) -> list[str]:
        """What token drafters have to propose now, by the kind of it."""
        return [
            "; ".join(s.drafting.kind(name) for name in s.drafting.token_drafters if s.available(name)) for s in open_
        ]

    def _candidates(
        self, costs: CostModel, decoding: Seq[Sequence], open_: list[Sequence], most: int
    ) -> tuple[list[Candidate], float]:
        """What can be had for the next cycle, and what it costs without."""
        fixed = [s for s in decoding if not s.drafting.is_adaptive]
        floor = min(most, max((s.draft_wanted for s in fixed), default=0))
        asked = any(s.drafting.uses_model and s.draft_wanted for s in fixed)
        for sequence in open_:
            names = sequence.drafting.drafters
            sequence.drafting.max_drafts = {name: sequence.available(name) for name in names} | {NO_DRAFT: 0}
        candidates = []
        for drafter in dict.fromkeys(name for s in open_ for name in s.drafting.drafters):
            able = [s for s in open_ if s.drafting.max_drafts.get(drafter)]
            if not able or not most:
                continue
            needs_model = able[0].drafting.needs_model(drafter)
            parts = [
                (self._estimate(s, drafter, s.drafting.kind(drafter)), s.drafting.max_drafts[drafter])
                if s.drafting.max_drafts.get(drafter)
                else None
                for s in open_
            ]
            uses_model = asked or needs_model

            def cycle_s(count: int, uses_model: bool = uses_model) -> float:
                return costs.cycle_s(max(count, floor), uses_model)

            catch_up = self._catch_up_s(able, costs, alone=len(able) == 1 and not asked) if needs_model else 0.0
            highest = min(most, max(s.drafting.max_drafts[drafter] for s in able))
            acceptance = parts[0][0] if len(parts) == 1 and parts[0] else BatchAcceptance(parts)
            candidates.append(Candidate(drafter, acceptance, highest, cycle_s, catch_up / len(open_)))
        return candidates, costs.cycle_s(floor, asked)

    def _catch_up_s(self, able: list[Sequence], costs: CostModel, alone: bool) -> float:
        """Seconds for the draft model to read what it has missed: a pass each, and what many tokens cost more."""
        read_s = costs.cost_table.draft_read_s if self._read_s is None else self._read_s
        return sum(missed_s(s.draft_lag, read_s, costs.draft_s, alone) for s in able)

    def _costs_of(self, decoding: Seq[Sequence]) -> CostModel:
        longest = max(s.length for s in decoding)
        key = len(decoding), (longest // _BUCKET).bit_length()
        if key not in self._costs:
            known = [self._costs[other] for other in self._costs if other[0] == key[0]]
            guessed = not self._measured or key != (1, 0)
            self._costs[key] = known[-1].carried() if known else CostModel(self.cost_table.for_batch(key[0]), guessed)
        return self._costs[key]

    def _estimate(self, sequence: Sequence, drafter: str, kind: str) -> Acceptance:
        """A sequence's own estimate, which begins with what is usual."""
        estimates = sequence.drafting.estimates
        if kind not in estimates:
            estimates[kind] = Acceptance(self._prior_of(sequence, drafter, kind).chance(sequence.prompt_keys))
        return estimates[kind]

    def _prior_of(self, sequence: Sequence, drafter: str, kind: str) -> PrefixPrior:
        """What the drafts of sequences of about this temperature come to."""
        key = kind, round(2 * min(sequence.params.temperature, 2.0))
        if key not in self._priors:
            self._priors[key] = PrefixPrior(sequence.drafting.drafters[drafter].priors[kind])
        return self._priors[key]


def _could_pay(costs: CostModel, decoding: Seq[Sequence], open_: Seq[Sequence], most: int) -> bool:
    """Whether any drafts could, however good they are: if not, nobody looks for some. Others may want rows anyway."""
    return len(open_) < len(decoding) or could_pay(most, costs.cycle_s(0), lambda count: costs.cycle_s(count, False))


def missed_s(count: int, read_s: float, draft_s: float, alone: bool) -> float:
    """Seconds for a draft model to read tokens that it missed.

    Args:
        count: of one sequence.
        read_s: of one of many that are read in one pass.
        draft_s: of a pass.
        alone: no other sequence asks it in the cycle, so that a few need no pass of their own.
    """
    if not count:
        return 0.0
    return count * read_s + (0.0 if alone and count <= DRAFT_GAP else draft_s)


def estimated_cost_table(share: float) -> CostTable:
    """A cost table where nothing was measured: rows cost a little, and a draft its share of the target's bytes.

    The scale does not matter: the first cycle tells how fast the machine is.

    Args:
        share: the draft's bytes over the target's.
    """
    rows = tuple(1.0 + 0.12 * count for count in range(MAX_DRAFT_TOKENS + 1))
    return CostTable(rows, share, share / 32)
