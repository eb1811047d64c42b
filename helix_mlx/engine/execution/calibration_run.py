"""Runs the cycles that a cost table is measured by: a sequence of nobody's, through the engine's own steps."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

from helix_mlx.engine.execution.runner import Runner
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.calibration import cost_table_of
from helix_mlx.speculative.cost_model import CostTable, CycleKind
from helix_mlx.speculative.draft_length import NO_DRAFT
from helix_mlx.speculative.drafter import DrafterSpec, Needs
from helix_mlx.speculative.ngram import NgramLookup
from helix_mlx.types import Progress

BUDGET_S = 1.5
"""No new round begins after so long."""
MOST_ROUNDS = 8
SLOW_S = 0.03
"""A pass from which on a round of every K takes too long; some are left out then."""
PROMPT_TOKENS = 36
PLAIN: CycleKind = (0, False)
PLAIN_RUN, RUN = 8, 3
"""Cycles of one kind one after the other. Of those with drafts the first is not counted. Plain ones are enqueued before
the one in front of them is read, so that what each took is told by all of a run together."""


class Anything(NgramLookup):
    """Proposes as many tokens as it is asked for, whatever they are: what they cost does not depend on that."""

    name = "anything"

    def propose(self, tokens: Seq[int], count: int) -> list[int]:
        """See `NgramLookup.propose`."""
        return [tokens[-1]] * count


ANYTHING = DrafterSpec(Anything.name, Needs.TOKENS, {"ngram": 0.5}, Anything)


class Schedule:
    """A policy that goes through kinds of cycles, a few of each, and keeps what they took.

    Args:
        kinds: K, and whether the draft model is asked.
    """

    def __init__(self, kinds: Seq[CycleKind]) -> None:
        self.seconds: dict[CycleKind, list[float]] = defaultdict(list)
        self.reads: list[tuple[int, float]] = []
        self._remaining = deque(kinds)
        self._launched = 0
        self._plain: list[float | None] = []
        self._in_flight: deque[tuple[CycleKind, bool]] = deque()

    @property
    def done(self) -> bool:
        """Whether everything on it has run."""
        return not self._remaining

    def choose(self, decoding: Seq[Sequence], most: int) -> None:
        """See `DraftPolicy.choose`."""
        if not decoding:
            return
        if self._remaining and self._launched >= self._run():
            self._remaining.popleft()
            self._launched = 0
        count, uses_model = self._remaining[0] if self._remaining else (0, False)
        for sequence in decoding:
            model = next(filter(sequence.drafting.needs_model, sequence.drafting.drafters), NO_DRAFT)
            sequence.drafting.set_next(model if uses_model else Anything.name if count else NO_DRAFT, count)
        self._launch()

    def wants_drafts(self, decoding: Seq[Sequence], most: int) -> bool:
        """See `DraftPolicy.wants_drafts`: when enough plain cycles are on their way, the next kind has its turn."""
        if not self._remaining or self._launched >= self._run():
            return True
        self._launch()
        return False

    def note(self, outcomes: Seq[tuple[Sequence, int, int]], uses_model: bool, seconds: float | None) -> None:
        """See `DraftPolicy.note`."""
        if not self._in_flight:
            return
        kind, first = self._in_flight.popleft()
        if kind != (max(count for _, count, _ in outcomes), uses_model):
            return
        if kind == PLAIN:
            self._plain.append(seconds)
            known = [each for each in self._plain if each is not None]
            if len(self._plain) == PLAIN_RUN and len(known) == PLAIN_RUN:
                self.seconds[kind].append(sum(known) / PLAIN_RUN)
        elif seconds is not None and not first:
            self.seconds[kind].append(seconds)

    def note_read(self, tokens: int, seconds: float) -> None:
        """See `DraftPolicy.note_read`."""
        self.reads.append((tokens, seconds))

    def _run(self) -> int:
        return PLAIN_RUN if self._remaining[0] == PLAIN else RUN

    def _launch(self) -> None:
        if self._remaining:
            self._in_flight.append((self._remaining[0], self._launched == 0))
            self._launched += 1


def measure(
    runner: Runner,
    sequence: Callable[[list[int]], Sequence],
    vocab_size: int,
    uses_model: bool,
    progress: Progress | None = None,
) -> CostTable | None:
    """Run cycles of every kind in turn, until the time for it is spent. On the engine's own thread, when it is idle.

    Args:
        runner: the engine's.
        sequence: makes one of a prompt, with the longest answer that fits.
        vocab_size: token ids to draw the prompt from.
        uses_model: whether there is a draft model.
        progress: is told rounds done and in all.

    Returns:
        The cost table of one sequence with a short context; None where the context is too short for one.
    """
    began = time.perf_counter()
    draws = random.Random(0)
    seconds: dict[CycleKind, list[float]] = defaultdict(list)
    reads: list[tuple[int, float]] = []
    counts: Any = range(MAX_DRAFT_TOKENS + 1)
    for number in range(MOST_ROUNDS):
        plain = seconds.get(PLAIN)
        if plain and statistics.median(plain) > SLOW_S:
            counts = (0, 1, 2, 4, MAX_DRAFT_TOKENS)
        kinds = [(count, False) for count in ((0,) if number == 0 else counts)]
        if uses_model and number:
            kinds += [(2, True), (5, True)]
        schedule = Schedule(kinds)
        with runner.isolated(schedule):
            made = sequence([draws.randrange(vocab_size) for _ in range(PROMPT_TOKENS)])
            made.drafting.drafters = {**made.drafting.drafters, Anything.name: ANYTHING}
            made.drafting.token_drafters, made.eos_ids = {Anything.name: Anything()}, frozenset()
            runner.add(made)
            while not (schedule.done or made.finished):
                runner.step()
        for kind, found in schedule.seconds.items():
            seconds[kind] += found
        reads += schedule.reads
        if progress is not None:
            progress(number + 1, MOST_ROUNDS)
        if number and time.perf_counter() - began > BUDGET_S:
            break
    return cost_table_of(seconds, reads)
