"""Which sequences run, wait or give up their pages, what is prefilled, and how many drafts each may have.

Plain Python, without MLX. The scheduler decides from the state of the sequences and the number of free pages; the
engine carries it out.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from helix_mlx.request import MAX_DRAFT_TOKENS


class Schedulable(Protocol):
    """What the scheduler sees of a sequence; lengths are in tokens."""

    arrival: int
    """Unique, and later ones are larger."""
    priority: int
    """Higher goes first."""
    pages_most: int
    """Pages it holds at its longest."""

    @property
    def length(self) -> int:
        """Known tokens but the last: what the target must have read before a cycle."""
        ...

    @property
    def target_length(self) -> int:
        """What the target has read."""
        ...

    @property
    def pages_held(self) -> int:
        """Pages in its block table."""
        ...

    @property
    def emitted_count(self) -> int:
        """Tokens of its answer so far."""
        ...

    @property
    def draft_wanted(self) -> int:
        """K, the drafts it wants in the next cycle; 0 without a drafter."""
        ...

    @property
    def draft_prefill_needed(self) -> int:
        """Tokens that the draft model must read before it can propose."""
        ...


S = TypeVar("S", bound=Schedulable)
FEWEST_DRAFTS = 2
"""If rows are so few that each sequence could have only one draft, it costs about as much as it gains."""
RESERVE = 100
"""One page in so many stays free when a sequence is admitted, so that running ones can grow for a while."""
SLAB = 8
"""A pool grows by at least one page per so many: growing copies it, so it should be rare."""


@dataclass(frozen=True)
class Limits:
    """The resources that a scheduler shares out.

    Args:
        page_size: positions in a page.
        pages_total: pages of the pool at its largest.
        max_sequences: sequences that run at once.
        prefill_tokens: prompt tokens read between two cycles, by target and draft together.
        max_rows: rows of one decoding pass of the target, of all sequences together.
        lookahead: cycles enqueued before one is read.
    """

    page_size: int
    pages_total: int
    max_sequences: int
    prefill_tokens: int
    max_rows: int
    lookahead: int = 0

    def __post_init__(self) -> None:
        assert 1 <= self.max_sequences <= self.max_rows
        assert self.prefill_tokens >= 1


@dataclass(frozen=True)
class Admission(Generic[S]):
    """Sequences that give up their pages, then those that start; the scheduler's lists are updated already."""

    preempt: list[S]
    admit: list[S]


@dataclass(frozen=True)
class Plan(Generic[S]):
    """What to do before the next cycle and in it.

    `prefill` and `draft_prefill` give the tokens to read of each sequence, in order. `decode` has every sequence that
    the target has fully read by then, with its K.
    """

    prefill: list[tuple[S, int]] = field(default_factory=list)
    draft_prefill: list[tuple[S, int]] = field(default_factory=list)
    decode: list[tuple[S, int]] = field(default_factory=list)


class Scheduler(Generic[S]):
    """First come first served within a priority. Between two cycles call `admit`, carry it out, then call `plan`.

    The oldest sequence of the highest priority is never preempted and fits the pool alone, so every sequence finishes.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[S] = []
        self.running: list[S] = []

    def fits(self, pages_most: int) -> bool:
        """Whether a sequence that may need so many pages can ever run."""
        return pages_most <= self.limits.pages_total

    def add(self, sequence: S) -> None:
        """Queue a sequence."""
        assert self.fits(sequence.pages_most)
        insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: S) -> None:
        """Drop a sequence that has finished or was cancelled."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)

    def start(self, sequence: S, pages_free: int) -> bool:
        """Run a sequence at once if its known tokens are in pages already and there is room for it.

        It never overtakes a waiting sequence that comes before it in the order.
        """
        ahead = self.waiting and _order(self.waiting[0]) < _order(sequence)
        spoken_for = sum(self._wanted(other, 2) for other in self.running)
        # Its table is still empty: the pages it shares are not its growth.
        growth = self._growth(sequence)
        if ahead or len(self.running) >= self.limits.max_sequences or spoken_for + growth > pages_free:
            return False
        self.running.append(sequence)
        return True

    def admit(
        self, pages_free: int, pages_needed: Callable[[S], int], pages_returned: Callable[[S], int] | None = None
    ) -> Admission[S]:
        """Preempt if pages would run out before the next cycle; otherwise admit waiting sequences in order.

        The sequences left running have pages for 1 + `lookahead` cycles; call this again before more are committed.

        Args:
            pages_free: pages that can be allocated.
            pages_needed: how many of them a waiting sequence takes for its known tokens.
            pages_returned: how many pages preempting a running sequence frees, at most: those it does not share. If not
                given, no sequence may share pages.
        """
        preempted = self._preempt(pages_free, pages_returned)
        admitted: list[S] = []
        if not preempted:
            spoken_for = sum(self._wanted(sequence, 2) for sequence in self.running)
            while self.waiting and len(self.running) < self.limits.max_sequences:
                sequence = self.waiting[0]
                need = pages_needed(sequence) + self._growth(sequence)
                # A sequence admitted too early is preempted and has to be prefilled again.
                if self.running and spoken_for + need + self.limits.pages_total // RESERVE > pages_free:
                    break
                spoken_for += need
                self.running.append(self.waiting.pop(0))
                admitted.append(sequence)
        return Admission(preempted, admitted)

    def pages_wanted(self, pages_needed: Callable[[S], int], copies: Callable[[S], int] = lambda _: 0) -> int:
        """Free pages needed for all running sequences to continue and all that may join them to start.

        With that many, `admit` preempts none and admits all of them; call this first if memory can still grow.

        Args:
            pages_needed: as in `admit`.
            copies: how many sequences wait for this one to prefill their shared prompt.
        """
        room = self.limits.max_sequences - len(self.running)
        joining = self.waiting[:room]
        wanted = sum(self._wanted(sequence, 2) for sequence in self.running)
        wanted += sum(pages_needed(sequence) + self._growth(sequence) for sequence in joining)
        wanted += sum(copies(sequence) * self._growth(sequence) for sequence in (*self.running, *joining))
        beside = joining and (self.running or len(joining) > 1)
        return wanted + (self.limits.pages_total // RESERVE if beside else 0)

    def covers(self, pages_free: int) -> bool:
        """Whether all running sequences have pages for 1 + `lookahead` cycles, from what is known of them.

        Check this before each cycle that is launched without `admit`; if it is false, read what is in flight first.
        """
        return sum(self._wanted(sequence, 1) for sequence in self.running) <= pages_free

    def plan(self) -> Plan[S]:
        """What is prefilled before the next cycle, and which sequences are in it."""
        plan: Plan[S] = Plan()
        budget = self.limits.prefill_tokens
        decoding: list[S] = []
        for sequence in sorted(self.running, key=_order):
            missing = sequence.length - sequence.target_length
            count = min(missing, budget)
            if count:
                plan.prefill.append((sequence, count))
                budget -= count
            if count == missing:
                decoding.append(sequence)
        cap = self.most_drafts(len(decoding))
        ready = set()
        for sequence in decoding:
            if not (cap and sequence.emitted_count and sequence.draft_wanted):
                continue
            missing = sequence.draft_prefill_needed
            count = min(missing, budget)
            if count:
                plan.draft_prefill.append((sequence, count))
                budget -= count
            if count == missing:
                ready.add(id(sequence))
        kept = {id(sequence) for sequence in decoding}
        for sequence in self.running:
            if id(sequence) in kept:
                plan.decode.append((sequence, min(sequence.draft_wanted, cap) if id(sequence) in ready else 0))
        return plan

    def most_drafts(self, decoding: int) -> int:
        """The largest K of a cycle of so many sequences; the only place that bounds K.

        All rows must fit one pass, in which every sequence has as many rows as the longest, and K must fit a tail, a
        verification and a cost table.
        """
        most = min(MAX_DRAFT_TOKENS, self.limits.max_rows // max(1, decoding) - 1)
        return most if most >= FEWEST_DRAFTS else 0

    def _preempt(self, pages_free: int, pages_returned: Callable[[S], int] | None) -> list[S]:
        """Preempt the youngest, until the others have pages for the next cycles."""
        preempted: list[S] = []
        order = sorted(self.running, key=_order)
        while len(order) > 1 and sum(self._wanted(sequence, 1) for sequence in order) > pages_free:
            sequence = order.pop()
            # Two preempted sequences that share pages free more than counted: one too many may go, never one too few.
            pages_free += sequence.pages_held if pages_returned is None else pages_returned(sequence)
            preempted.append(sequence)
        for sequence in preempted:
            self.running.remove(sequence)
            insort(self.waiting, sequence, key=_order)
        return preempted

    def _wanted(self, sequence: S, cycles: int) -> int:
        """Pages that a running sequence may take in the next cycles, or to prefill its prompt."""
        return max(0, min(sequence.pages_most, self._reach(sequence, cycles)) - sequence.pages_held)

    def _growth(self, sequence: S) -> int:
        """Pages that a sequence takes in its first cycles, beyond those of its known tokens."""
        return max(0, min(sequence.pages_most, self._reach(sequence, 2)) - sequence.length // self.limits.page_size)

    def _reach(self, sequence: S, cycles: int) -> int:
        """Pages that a sequence may fill in the next cycles."""
        cycles += self.limits.lookahead
        return (sequence.length + cycles * (sequence.draft_wanted + 1)) // self.limits.page_size


def pages_to_add(pages: int, most: int, free: int, wanted: int) -> int:
    """By how many pages a pool grows now: only if more are wanted than are free, and then by a slab.

    Args:
        pages: of the pool.
        most: the largest it may become.
        free: pages that can be allocated, including those held only by the prefix cache.
        wanted: from `Scheduler.pages_wanted`.
    """
    missing = wanted - free
    return min(most - pages, max(missing, pages // SLAB)) if missing > 0 else 0


def _order(sequence: Schedulable) -> tuple[int, int]:
    return -sequence.priority, sequence.arrival
