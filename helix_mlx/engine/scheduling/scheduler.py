"""Whose turn it is: who runs, who waits, who gives up its pages, what is read, and how many drafts each may have.

Plain Python, and no MLX. The scheduler decides from what jobs say of themselves and from the number of pages that can
be had; the engine carries it out.
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
    """Pages it holds when it has grown as far as it may."""

    @property
    def length(self) -> int:
        """Known tokens but the last: the target has read so many before a cycle."""
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
        """K, the drafts that it asks for in the next cycle; 0 where it has no draft."""
        ...

    @property
    def draft_prefill_needed(self) -> int:
        """Tokens that its draft has to read before it can be asked."""
        ...


J = TypeVar("J", bound=Schedulable)
FEWEST_DRAFTS = 2
"""Where rows are so few that each could have but one draft, that costs about as much as it brings."""
RESERVE = 100
"""One page in so many stays free where somebody is let in, so that those who run can grow a while."""
SLAB = 8
"""A pool grows by at least one page for so many: it is copied then, so it had better not be often."""


@dataclass(frozen=True)
class Limits:
    """What a scheduler may give out.

    Args:
        page_size: positions in a page.
        pages_total: pages of the pool, when it has grown as far as it may.
        max_sequences: jobs that run at once.
        prefill_tokens: tokens of prompts that are read between two cycles, by the target and the draft together.
        max_rows: rows of one decoding pass of the target, of all jobs together.
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
class Admission(Generic[J]):
    """Who has to give up its pages, then who begins; both have changed their place already."""

    preempt: list[J]
    admit: list[J]


@dataclass(frozen=True)
class Plan(Generic[J]):
    """What to do before the next cycle and in it.

    `prefill` and `draft_prefill` tell how many tokens to read of which job, in order. `decode` are all jobs that the
    target has read, then, with their K.
    """

    prefill: list[tuple[J, int]] = field(default_factory=list)
    draft_prefill: list[tuple[J, int]] = field(default_factory=list)
    decode: list[tuple[J, int]] = field(default_factory=list)


class Scheduler(Generic[J]):
    """First come first served within a priority. Between two cycles call `admit`, carry it out, then call `plan`.

    The oldest job of the highest priority is never preempted, and fits the pool alone, so everybody comes to an end.

    Args:
        limits: what there is.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[J] = []
        self.running: list[J] = []

    def fits(self, pages_most: int) -> bool:
        """Whether a job that grows to so many pages can run at all."""
        return pages_most <= self.limits.pages_total

    def add(self, job: J) -> None:
        """Let a job wait for its turn."""
        assert self.fits(job.pages_most)
        insort(self.waiting, job, key=_order)

    def remove(self, job: J) -> None:
        """A job has ended, or is not wanted any more."""
        (self.running if job in self.running else self.waiting).remove(job)

    def start(self, job: J, pages_free: int) -> bool:
        """Let a job run out of its turn whose known tokens are in pages already, if there is room for it.

        It may not pass anybody of at least its own standing: those who wait were there first.
        """
        ahead = self.waiting and _order(self.waiting[0]) < _order(job)
        spoken_for = sum(self._wanted(other, 2) for other in self.running)
        # Its table is still empty: the pages it shares are not its growth.
        growth = self._growth(job)
        if ahead or len(self.running) >= self.limits.max_sequences or spoken_for + growth > pages_free:
            return False
        self.running.append(job)
        return True

    def admit(
        self, pages_free: int, pages_needed: Callable[[J], int], pages_returned: Callable[[J], int] | None = None
    ) -> Admission[J]:
        """Preempt where pages run out before the next cycle, else let those begin whose turn it is.

        What it leaves running finds its pages for 1 + `lookahead` cycles; call it again before more of them commit.

        Args:
            pages_free: pages that can be had.
            pages_needed: pages that a waiting job would take from those for the tokens it knows now.
            pages_returned: pages that can be had once a running job has let go, and no more than those: all but what
                it shares. Without it no job may share any.
        """
        preempted = self._preempt(pages_free, pages_returned)
        admitted: list[J] = []
        if not preempted:
            spoken_for = sum(self._wanted(job, 2) for job in self.running)
            while self.waiting and len(self.running) < self.limits.max_sequences:
                job = self.waiting[0]
                need = pages_needed(job) + self._growth(job)
                # What is let in too early is thrown out again, and has to be read again.
                if self.running and spoken_for + need + self.limits.pages_total // RESERVE > pages_free:
                    break
                spoken_for += need
                self.running.append(self.waiting.pop(0))
                admitted.append(job)
        return Admission(preempted, admitted)

    def pages_wanted(self, pages_needed: Callable[[J], int], copies: Callable[[J], int] = lambda _: 0) -> int:
        """Pages to be had for all who run to go on, and all who may run beside them to begin.

        With so many, `admit` preempts nobody and lets them all begin: ask before it, where memory can still grow.

        Args:
            pages_needed: as in `admit`.
            copies: how many wait for a job to read the prompt that they share.
        """
        room = self.limits.max_sequences - len(self.running)
        joining = self.waiting[:room]
        wanted = sum(self._wanted(job, 2) for job in self.running)
        wanted += sum(pages_needed(job) + self._growth(job) for job in joining)
        wanted += sum(copies(job) * self._growth(job) for job in (*self.running, *joining))
        beside = joining and (self.running or len(joining) > 1)
        return wanted + (self.limits.pages_total // RESERVE if beside else 0)

    def covers(self, pages_free: int) -> bool:
        """Whether all that run find their pages for 1 + `lookahead` cycles from what is known of them.

        Ask before each cycle that is enqueued without `admit`; where it says no, read what is in flight first.
        """
        return sum(self._wanted(job, 1) for job in self.running) <= pages_free

    def plan(self) -> Plan[J]:
        """What is read before the next cycle, and who is in it."""
        plan: Plan[J] = Plan()
        budget = self.limits.prefill_tokens
        decoding: list[J] = []
        for job in sorted(self.running, key=_order):
            missing = job.length - job.target_length
            count = min(missing, budget)
            if count:
                plan.prefill.append((job, count))
                budget -= count
            if count == missing:
                decoding.append(job)
        cap = self.most_drafts(len(decoding))
        ready = set()
        for job in decoding:
            if not (cap and job.emitted_count and job.draft_wanted):
                continue
            missing = job.draft_prefill_needed
            count = min(missing, budget)
            if count:
                plan.draft_prefill.append((job, count))
                budget -= count
            if count == missing:
                ready.add(id(job))
        kept = {id(job) for job in decoding}
        for job in self.running:
            if id(job) in kept:
                plan.decode.append((job, min(job.draft_wanted, cap) if id(job) in ready else 0))
        return plan

    def most_drafts(self, decoding: int) -> int:
        """The largest K of a cycle of so many jobs. Whoever needs a bound on K asks here.

        All rows have to fit one pass, where each job has the rows of the longest, and K what a tail, a verification
        and a cost table hold.
        """
        most = min(MAX_DRAFT_TOKENS, self.limits.max_rows // max(1, decoding) - 1)
        return most if most >= FEWEST_DRAFTS else 0

    def _preempt(self, pages_free: int, pages_returned: Callable[[J], int] | None) -> list[J]:
        """The youngest that have to go, so that the others can commit what the next cycles bring."""
        preempted: list[J] = []
        order = sorted(self.running, key=_order)
        while len(order) > 1 and sum(self._wanted(job, 1) for job in order) > pages_free:
            job = order.pop()
            # Two that go and share pages return more than this says: one too many may go, but never one too few.
            pages_free += job.pages_held if pages_returned is None else pages_returned(job)
            preempted.append(job)
        for job in preempted:
            self.running.remove(job)
            insort(self.waiting, job, key=_order)
        return preempted

    def _wanted(self, job: J, cycles: int) -> int:
        """Pages that a running job may have to take in the next cycles, or to have its prompt read."""
        return max(0, min(job.pages_most, self._reach(job, cycles)) - job.pages_held)

    def _growth(self, job: J) -> int:
        """Pages that a job takes in its first cycles, beyond those of the tokens it knows."""
        return max(0, min(job.pages_most, self._reach(job, 2)) - job.length // self.limits.page_size)

    def _reach(self, job: J, cycles: int) -> int:
        """Pages that a job may fill in the next cycles."""
        cycles += self.limits.lookahead
        return (job.length + cycles * (job.draft_wanted + 1)) // self.limits.page_size


def pages_to_add(pages: int, most: int, free: int, wanted: int) -> int:
    """By how many pages a pool grows now: not before more is wanted than can be had, and then by a slab.

    Args:
        pages: of the pool.
        most: pages that it may grow to.
        free: pages that can be had, those that are only kept for what begins alike among them.
        wanted: as `Scheduler.pages_wanted` says.
    """
    missing = wanted - free
    return min(most - pages, max(missing, pages // SLAB)) if missing > 0 else 0


def _order(job: Schedulable) -> tuple[int, int]:
    return -job.priority, job.arrival
