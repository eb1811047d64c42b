"""The scheduler at work on the real bookkeeping of pages, with sequences that only count: everybody comes to an end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_mlx.engine.scheduling.scheduler import Limits, Plan, Scheduler, pages_to_add
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.paging.prefix_cache import PrefixCache

PAGE = 4
WIDE_PAGE = 16
"""So wide that many cycles pass between two pages."""


@dataclass(eq=False)
class Counted:
    """A sequence for the scheduler, with tokens and pages but no keys or values."""

    arrival: int
    priority: int
    prompt: int
    answer: int
    draft_tokens: int
    draft_context: int
    text: int
    table: BlockTable
    pages_most: int
    copies: list[Counted] = field(default_factory=list)
    known: int = 0
    target_length: int = 0
    draft_length: int = 0
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.known = self.prompt

    @property
    def tokens(self) -> list[int]:
        """Those of the same text have the same ones, so they share pages."""
        return [self.text * 1000 + index for index in range(self.known)]

    @property
    def length(self) -> int:
        return self.known - 1

    @property
    def pages_held(self) -> int:
        return len(self.table.pages)

    @property
    def emitted_count(self) -> int:
        return self.known - self.prompt

    @property
    def draft_wanted(self) -> int:
        return self.draft_tokens if self.length < self.draft_context else 0

    @property
    def draft_prefill_needed(self) -> int:
        return max(0, self.length - 1 - self.draft_length)

    @property
    def finished(self) -> bool:
        return self.emitted_count >= self.answer

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.arrival

    def release(self) -> None:
        self.table.truncate(0)
        self.target_length = self.draft_length = 0


def arrivals(sequences: list[Counted]) -> list[int]:
    return [sequence.arrival for sequence in sequences]


@dataclass(frozen=True)
class Ask:
    """One request: when it comes and what it wants."""

    step: int
    prompt: int
    answer: int
    draft_tokens: int = 0
    priority: int = 0
    text: int = 0
    copies: int = 0
    draft_context: int = 10_000


class Simulation:
    """An engine's steps between two reads of the device, as far as the scheduler sees them.

    A page is written when its last position is verified and one more is known, by the tables and the allocator of
    the real engine: they raise `MemoryBudgetError` where the scheduler has promised what there is not.
    """

    def __init__(
        self, limits: Limits, requests: list[Ask], kept: float, seed: int, cached: bool = True, first: int | None = None
    ) -> None:
        self.limits = limits
        self.allocator = PageAllocator(first or limits.pages_total)
        self.admissions: list[tuple[list[int], list[int]]] = []
        self.cache = PrefixCache(self.allocator, self.limits.page_size, b"", enabled=cached)
        self.scheduler: Scheduler[Counted] = Scheduler(limits)
        self.requests = sorted(requests, key=lambda ask: ask.step)
        self.kept = kept
        self.random = random.Random(seed)
        self.arrivals = self.steps = self.preemptions = 0
        self.ended: list[Counted] = []
        self.begun: list[Counted] = []
        self.copied: set[int] = set()

    def run(self) -> None:
        """Until everybody has ended, which has to be soon: the first in the order moves at every step."""
        most = sum((1 + ask.copies) * (ask.prompt + ask.answer + 2) for ask in self.requests) + 1
        most += max((ask.step for ask in self.requests), default=0)
        while self.requests or self.scheduler.running or self.scheduler.waiting:
            self.step()
            assert self.steps <= most, "somebody never ends"
        assert (self.allocator.pages_used, self.allocator.pages_free) == (0, self.allocator.pages_total)
        assert self.allocator.pages_total <= self.limits.pages_total

    def step(self) -> None:
        self.steps += 1
        while self.requests and self.requests[0].step <= self.steps:
            self.arrive(self.requests.pop(0))
        preempted = self.admission()
        plan = self.scheduler.plan()
        self.check(plan)
        for sequence, count in plan.prefill:
            sequence.target_length += count
            self.commit(sequence, sequence.target_length)
        for sequence, count in plan.draft_prefill:
            sequence.draft_length += count
        self.fork(plan)
        in_flight = 1
        while in_flight:
            if in_flight <= self.limits.lookahead and not preempted and self.may_run_ahead(plan):
                in_flight += 1
            else:
                in_flight -= 1
                for sequence, count in plan.decode:
                    self.decode(sequence, count)
        for sequence in [sequence for sequence, _ in plan.decode]:
            self.commit(sequence, sequence.length if sequence.finished else sequence.length - 1)
        for sequence in [sequence for sequence in self.scheduler.running if sequence.finished]:
            self.scheduler.remove(sequence)
            sequence.release()
            self.ended.append(sequence)
        assert self.allocator.pages_used <= self.limits.pages_total

    def may_run_ahead(self, plan: Plan[Counted]) -> bool:
        """Whether the same cycle may be enqueued once more before the last one is read: nothing has to change."""
        sequences = [sequence for sequence, _ in plan.decode]
        changes = plan.prefill or plan.draft_prefill
        ends = any(sequence.finished or not sequence.emitted_count for sequence in sequences)
        full_page = any((sequence.length - 1) // self.limits.page_size > sequence.pages_held for sequence in sequences)
        covered = self.scheduler.covers(self.allocator.pages_free)
        return bool(sequences) and not (changes or ends or full_page) and covered

    def arrive(self, ask: Ask) -> None:
        sequences = [self.sequence(ask) for _ in range(1 + ask.copies)]
        sequences[0].copies = sequences[1:]
        self.copied.update(sequence.arrival for sequence in sequences[1:])
        self.scheduler.add(sequences[0])

    def sequence(self, ask: Ask) -> Counted:
        self.arrivals += 1
        table = BlockTable(self.allocator)
        return Counted(
            self.arrivals,
            ask.priority,
            ask.prompt,
            ask.answer,
            ask.draft_tokens,
            ask.draft_context,
            ask.text,
            table,
            pages_most=-(-(ask.prompt + ask.answer) // self.limits.page_size),
        )

    def admission(self) -> bool:
        """Preempt and admit, and see that it was those whose turn it was; returns whether anybody had to go."""
        scheduler = self.scheduler
        first = min(scheduler.running, key=lambda sequence: sequence.order, default=None)
        before = list(scheduler.waiting)
        pages, most = self.allocator.pages_total, self.limits.pages_total
        wanted = scheduler.pages_wanted(self.pages_needed, lambda sequence: len(sequence.copies))
        if more := pages_to_add(pages, most, self.allocator.pages_free, wanted):
            self.allocator.grow(more)
        admission = scheduler.admit(self.allocator.pages_free, self.pages_needed, self.pages_returned)
        self.admissions.append((arrivals(admission.preempt), arrivals(admission.admit)))
        assert not (admission.preempt and admission.admit)
        assert first not in admission.preempt
        for sequence in admission.preempt:
            assert all(sequence.order > other.order for other in scheduler.running)
            sequence.release()
            sequence.preemptions += 1
        self.preemptions += len(admission.preempt)
        assert admission.admit == before[: len(admission.admit)]
        assert scheduler.waiting == sorted(scheduler.waiting, key=lambda sequence: sequence.order)
        assert scheduler.running or not scheduler.waiting
        assert len(scheduler.running) <= self.limits.max_sequences
        for sequence in admission.admit:
            found = self.cache.match(sequence.tokens[: sequence.length])
            sequence.table.adopt(found.pages, found.digests)
            sequence.target_length = len(found.pages) * self.limits.page_size
        self.begun += [sequence for sequence in admission.admit if not sequence.preemptions]
        return bool(admission.preempt)

    def pages_needed(self, sequence: Counted) -> int:
        found = self.cache.match(sequence.tokens[: sequence.length]).pages
        return sequence.length // self.limits.page_size - sum(self.allocator.ref_count(page) > 0 for page in found)

    def pages_returned(self, sequence: Counted) -> int:
        return sum(self.allocator.ref_count(page) == 1 for page in sequence.table.pages)

    def check(self, plan: Plan[Counted]) -> None:
        """Everything a plan promises."""
        running, limits = self.scheduler.running, self.limits
        assert sum(count for _, count in plan.prefill + plan.draft_prefill) <= limits.prefill_tokens
        rows = len(plan.decode) * (1 + max((count for _, count in plan.decode), default=0))
        assert rows <= limits.max_rows
        assert all(count > 0 for _, count in plan.prefill + plan.draft_prefill)
        read = {id(sequence): sequence.target_length for sequence in running}
        drafted = {id(sequence): sequence.draft_length for sequence in running}
        for sequence, count in plan.prefill:
            read[id(sequence)] += count
            assert read[id(sequence)] <= sequence.length
        for sequence, count in plan.draft_prefill:
            drafted[id(sequence)] += count
            assert drafted[id(sequence)] <= sequence.length - 1
        # Whoever has begun to answer goes on in every step, whatever prompts arrive meanwhile.
        known = [sequence for sequence in running if read[id(sequence)] == sequence.length]
        assert [sequence for sequence, _ in plan.decode] == known
        ready = {
            id(sequence)
            for sequence, _ in plan.decode
            if sequence.emitted_count and sequence.draft_wanted and drafted[id(sequence)] >= sequence.length - 1
        }
        cap = self.scheduler.most_drafts(len(plan.decode))
        for sequence, count in plan.decode:
            assert count == (min(sequence.draft_wanted, cap) if id(sequence) in ready else 0)
        if running:
            first = min(running, key=lambda sequence: sequence.order)
            assert first in [sequence for sequence, _ in plan.prefill + plan.decode], "the first stands still"

    def fork(self, plan: Plan[Counted]) -> None:
        """Copies begin with the pages of the one that has read their prompt, or wait."""
        for parent, _ in plan.decode:
            copies, parent.copies = parent.copies, []
            for copy in copies:
                if self.scheduler.start(copy, self.allocator.pages_free):
                    copy.table = parent.table.fork()
                    copy.target_length = parent.target_length
                else:
                    self.scheduler.add(copy)

    def decode(self, sequence: Counted, count: int) -> None:
        if sequence.finished:
            return
        kept = 0
        while kept < count and self.random.random() < self.kept:
            kept += 1
        sequence.known += min(1 + kept, sequence.answer - sequence.emitted_count)
        sequence.target_length = sequence.length
        if count:
            sequence.draft_length = sequence.length - 1

    def commit(self, sequence: Counted, verified: int) -> None:
        sequence.table.grow(verified // self.limits.page_size)
        self.cache.add(sequence.table, sequence.tokens, len(sequence.table.pages))


@st.composite
def limits_and_asks(draw: st.DrawFn) -> tuple[Limits, list[Ask]]:
    """A small pool, and requests each of which fits it alone."""
    page_size = draw(st.sampled_from([PAGE, WIDE_PAGE]))
    pages = draw(st.integers(2, 24 if page_size == PAGE else 8))
    sequences = draw(st.integers(1, 6))
    limits = Limits(
        page_size=page_size,
        pages_total=pages,
        max_sequences=sequences,
        prefill_tokens=draw(st.integers(1, 24)),
        max_rows=sequences + draw(st.integers(0, 24)),
        lookahead=draw(st.integers(0, 1)),
    )
    requests = []
    for _ in range(draw(st.integers(1, 14))):
        total = draw(st.integers(2, pages * page_size))
        prompt = draw(st.integers(1, total - 1))
        requests.append(
            Ask(
                step=draw(st.integers(1, 60)),
                prompt=prompt,
                answer=total - prompt,
                draft_tokens=draw(st.integers(0, 7)),
                priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
                text=draw(st.integers(0, 3)),
                copies=draw(st.sampled_from([0, 0, 0, 1, 4])),
                draft_context=draw(st.sampled_from([10_000, 10_000, 20])),
            )
        )
    return limits, requests


@settings(max_examples=250, deadline=None, derandomize=True)
@given(limits_and_asks(), st.sampled_from([0.0, 0.6, 1.0]), st.integers(0, 2**16), st.booleans(), st.booleans())
def test_everybody_comes_to_an_end(
    case: tuple[Limits, list[Ask]], kept: float, seed: int, cached: bool, grows: bool
) -> None:
    limits, requests = case
    simulation = Simulation(limits, list(requests), kept, seed, cached, first=1 if grows else None)
    simulation.run()
    assert len(simulation.ended) == sum(1 + ask.copies for ask in requests)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(limits_and_asks(), st.sampled_from([0.0, 0.6, 1.0]), st.integers(0, 2**16), st.integers(1, 4))
def test_a_pool_that_grows_makes_nobody_wait(
    case: tuple[Limits, list[Ask]], kept: float, seed: int, first: int
) -> None:
    """Who begins and who has to go is the same, step by step, as with all the memory from the beginning."""
    limits, requests = replace(case[0], lookahead=0), case[1]
    grown = Simulation(limits, list(requests), kept, seed, cached=False, first=min(first, limits.pages_total))
    whole = Simulation(limits, list(requests), kept, seed, cached=False)
    grown.run()
    whole.run()
    assert grown.admissions == whole.admissions
    assert arrivals(grown.ended) == arrivals(whole.ended)


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("sharing", [True, False])
def test_thousands_of_steps_under_pressure(lookahead: int, sharing: bool) -> None:
    """A pool for a few of many: much is preempted, and first come stays first served."""
    draws = random.Random(7)
    requests = [
        Ask(
            step=draws.randrange(1000),
            prompt=draws.randint(1, 60),
            answer=draws.randint(1, 60),
            draft_tokens=draws.choice([0, 2, 4, 7]),
            text=draws.randrange(4) if sharing else number,
            copies=draws.choice([0, 0, 0, 3]),
        )
        for number in range(400)
    ]
    limits = Limits(PAGE, 36, max_sequences=6, prefill_tokens=32, max_rows=20, lookahead=lookahead)
    simulation = Simulation(limits, requests, 0.7, 3, cached=sharing)
    simulation.run()
    assert simulation.steps > 2000
    assert simulation.preemptions > 50
    assert len({sequence.arrival for sequence in simulation.ended}) == simulation.arrivals
    first_time = [sequence.arrival for sequence in simulation.begun if sequence.arrival not in simulation.copied]
    assert first_time == sorted(first_time)
    assert len(first_time) == len(requests)


@pytest.mark.parametrize("answers", [(60, 60), (31, 46)])
@pytest.mark.parametrize("pages", [4, 5, 6, 7])
def test_cycles_that_run_ahead_find_their_pages(answers: tuple[int, int], pages: int) -> None:
    """Two that reach their next page together, long after pages were asked for; or one ends there."""
    limits = Limits(WIDE_PAGE, max(pages, 5 if answers[0] == 60 else 4), 2, 64, max_rows=2, lookahead=1)
    requests = [Ask(1, 18, answer, text=text) for text, answer in enumerate(answers)]
    Simulation(limits, requests, 0.0, 0, cached=False).run()


def test_a_long_prompt_delays_nobody_by_more_than_one_chunk() -> None:
    """Beside 160 tokens that are read 8 at a time, the one that answers has a token after each chunk."""
    limits = Limits(PAGE, 100, max_sequences=4, prefill_tokens=8, max_rows=8)
    simulation = Simulation(limits, [Ask(1, 4, 60), Ask(5, 160, 4, text=1)], 0.0, 0)
    for _ in range(4):
        simulation.step()
    (answering,) = simulation.scheduler.running
    for _ in range(20):
        before = answering.emitted_count
        simulation.step()
        assert answering.emitted_count == before + 1
    reading = simulation.scheduler.running[1]
    assert (reading.length, reading.target_length) == (159 + reading.emitted_count, reading.length)
