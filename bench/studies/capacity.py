"""How many sequences fit in a KV budget, and how much of it is unused: a replay without a model.

    helix-mlx bench capacity [--quick] [--seed 0] [--out FILE]

The page allocator, the block tables, the prefix cache and the scheduler are the engine's own; the sequences only count.
A queue that is never empty waits for a budget of so many positions, tails included: what `max_sequences` tails take is
taken off the pool. Lengths are log-normal, drawn again where prompt and answer together pass the longest context, and
scaled so that those that are kept have the means that the PagedAttention paper reports for ShareGPT, 161 in and 338
out. The paper gives no sigma: several are shown.

Beside it: one reservation of the longest context a sequence, and mlx-lm's `BatchKVCache`, whose rows are all as wide as
the longest, in steps of 256, under its `BatchGenerator`, which joins at most 8 prompts a step. That has no bound on
memory but the number of rows, so it is given the largest number whose cache never passes the budget in the replay.
What it needs besides while it copies a cache that grows is not counted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import click
import numpy as np

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.engine.execution.cycle import tail_slots
from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.paging.prefix_cache import PrefixCache

LONGEST = 2048
MEANS = (161.0, 338.0)
"""Tokens in and out: ShareGPT in the PagedAttention paper."""
SIGMAS = (0.5, 0.7, 1.0)
PREFILL = 2048
"""Prompt tokens a step: enough for the queue to be never what keeps sequences from running."""
DRAFTS = 4
KEPT = 0.7
"""Chance that a draft is accepted, where the ones before it were."""
SPARE = 1.1
"""`max_sequences` by the number that the budget holds on average."""
ASKED_TIMES, ASKED_WASTE = 4.0, 0.04


@dataclass(frozen=True)
class Case:
    """What is replayed."""

    sigma: float
    page_size: int
    drafts: int
    budget: int
    steps: int
    warm_up: int
    seed: int


@dataclass(frozen=True)
class Found:
    """What came out: averages over the steps after the warm-up; `at_once` are sequences that decode."""

    at_once: float
    unused_fraction: float
    preemptions: int = 0
    read_again: int = 0
    tokens: int = 0
    """Tokens of answers, in all steps."""
    most: int = 0
    """Sequences that may run at once: what `max_sequences` or mlx-lm's batch size was set to."""


def draw(case: Case, count: int = 50_000) -> np.ndarray:
    """Lengths [N, 2] int: tokens in and out of each request, in the order of their arrival."""
    normal = np.random.default_rng(case.seed).standard_normal((count, 2))
    scale = np.log(MEANS)
    for _ in range(40):
        lengths = np.maximum(1, np.rint(np.exp(scale + case.sigma * normal)))
        lengths = lengths[lengths.sum(axis=1) <= LONGEST]
        scale += np.log(np.array(MEANS) / lengths.mean(axis=0))
    return lengths.astype(np.int64)


def mean_resident(lengths: np.ndarray) -> float:
    """Positions of a running sequence, on average over the steps in which it runs."""
    into, out = lengths[:, 0].astype(float), lengths[:, 1].astype(float)
    return float((into * out + out**2 / 2).sum() / out.sum())


@dataclass(eq=False)
class Replayed:
    """A sequence for the scheduler, with tokens and pages but no keys or values."""

    arrival: int
    tokens: list[int]
    prompt_tokens: int
    out: int
    table: BlockTable
    pages_most: int
    draft_wanted: int
    priority: int = 0
    target_length: int = 0
    draft_length: int = 0
    furthest: int = 0

    @property
    def draft_prefill_needed(self) -> int:
        """Tokens that its draft has yet to read."""
        return max(0, self.length - 1 - self.draft_length)

    @property
    def length(self) -> int:
        """See `Schedulable`."""
        return len(self.tokens) - 1

    @property
    def pages_held(self) -> int:
        """See `Schedulable`."""
        return len(self.table.pages)

    @property
    def emitted_count(self) -> int:
        """See `Schedulable`."""
        return len(self.tokens) - self.prompt_tokens


class Replay:
    """The runner's steps, with nothing computed.

    Args:
        case: what is replayed.
        lengths: of the requests, as of `draw`.
    """

    def __init__(self, case: Case, lengths: np.ndarray) -> None:
        self._case = case
        self._random = random.Random(case.seed)
        self._ids = itertools.count()  # no two prompts begin alike
        self.slots = tail_slots(case.page_size, None)
        self.most = int(SPARE * case.budget / (mean_resident(lengths) + self.slots))
        pages = (case.budget - self.most * self.slots) // case.page_size - 1  # one is the page of zeros
        self._allocator = PageAllocator(pages)
        self._cache = PrefixCache(self._allocator, case.page_size, b"")
        self._scheduler: Scheduler[Replayed] = Scheduler(
            Limits(case.page_size, pages, self.most, PREFILL, self.most * (case.drafts + 1))
        )
        self._arrivals = self._requests(lengths)
        self.preemptions = self.read_again = self.emitted = 0

    def _requests(self, lengths: np.ndarray) -> Iterator[Replayed]:
        size = self._case.page_size
        for arrival, (into, out) in zip(itertools.count(), itertools.cycle(lengths.tolist())):
            tokens = [next(self._ids) for _ in range(into)]
            table = BlockTable(self._allocator)
            yield Replayed(arrival, tokens, into, out, table, -(-(into + out) // size), self._case.drafts)

    def step(self) -> tuple[int, int, int]:
        """Do what a step of the engine does to pages.

        Returns:
            Sequences that decoded, and of all that were running: positions that they used, and that they held.
        """
        scheduler, size = self._scheduler, self._case.page_size
        while len(scheduler.waiting) < 16:
            scheduler.add(next(self._arrivals))
        for sequence in scheduler.running:
            if sequence.target_length >= sequence.length:
                self._commit(sequence, sequence.length - 1)
        admission = scheduler.admit(self._allocator.pages_free, self._pages_needed)
        for sequence in admission.preempt:
            sequence.table.truncate(0)
            sequence.target_length = sequence.draft_length = 0
            self.preemptions += 1
        for sequence in admission.admit:
            found = self._cache.match(sequence.tokens[: sequence.length])
            sequence.table.adopt(found.pages, found.digests)
            sequence.target_length = sequence.draft_length = len(found.pages) * size
        plan = scheduler.plan()
        for sequence, count in plan.prefill:
            self.read_again += max(0, min(sequence.furthest, sequence.target_length + count) - sequence.target_length)
            sequence.target_length += count
            self._commit(sequence, sequence.target_length)
        for sequence, count in plan.draft_prefill:
            sequence.draft_length += count
        for sequence, count in plan.decode:
            self._decode(sequence, count)
        running = scheduler.running
        held = sum(sequence.pages_held * size + self.slots for sequence in running)
        seen = len(plan.decode), sum(sequence.target_length for sequence in running), held
        for sequence in [sequence for sequence in running if sequence.emitted_count >= sequence.out]:
            scheduler.remove(sequence)
            sequence.table.truncate(0)
        return seen

    def _pages_needed(self, sequence: Replayed) -> int:
        found = self._cache.match(sequence.tokens[: sequence.length]).pages
        shared = sum(self._allocator.ref_count(page) > 0 for page in found)
        return sequence.length // self._case.page_size - shared

    def _commit(self, sequence: Replayed, verified: int) -> None:
        pages = max(sequence.pages_held, verified // self._case.page_size)
        sequence.table.grow(pages)
        self._cache.add(sequence.table, sequence.tokens, pages)

    def _decode(self, sequence: Replayed, count: int) -> None:
        kept = 0
        while kept < count and self._random.random() < KEPT:
            kept += 1
        new = min(1 + kept, sequence.out - sequence.emitted_count)
        sequence.tokens.extend(next(self._ids) for _ in range(new))
        sequence.target_length = sequence.furthest = sequence.length
        if count:
            sequence.draft_length = sequence.length - 1
        self.emitted += new


def pages_at_once(case: Case, lengths: np.ndarray) -> Found:
    """Replay pages."""
    replay = Replay(case, lengths)
    seen = np.array([replay.step() for _ in range(case.steps)])[case.warm_up :]
    at_once, used, held = map(float, seen.mean(axis=0))
    return Found(at_once, 1 - used / held, replay.preemptions, replay.read_again, replay.emitted, replay.most)


@dataclass
class Padded:
    """mlx-lm's `GenerationBatch` and the prompts that it is about to take in: widths and lengths alone.

    `index` is how far the rows reach, `width` how far the cache does; a row of length n is padded by index - n.
    """

    STEP = 256
    JOIN = 8

    rows: int
    index: int = 0
    width: int = 0
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    left: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    prompts: list[list[int]] = field(default_factory=list)

    def step(self, arrivals: Iterator[list[int]]) -> tuple[int, int, int]:
        """As `Replay.step`."""
        if len(self.lengths):
            self._generate()
        joining = self.prompts
        self.prompts = [next(arrivals) for _ in range(min(self.JOIN, self.rows - len(self.lengths) - len(joining)))]
        if joining:
            self._join(joining)
        held = len(self.lengths) * self.width + len(self.prompts) * self._width([into for into, _ in self.prompts])
        used = int(self.lengths.sum()) + sum(into for into, _ in self.prompts)
        return len(self.lengths), used, held

    def _generate(self) -> None:
        if self.index + 1 > self.width:
            self.width = self.index + self.STEP
        self.index += 1
        self.lengths, self.left = self.lengths + 1, self.left - 1
        stay = self.left > 0
        if not stay.all():
            self.lengths, self.left = self.lengths[stay], self.left[stay]
            spare = self.index - int(self.lengths.max(initial=0))
            self.index, self.width = self.index - spare, self.width - spare

    def _join(self, joining: list[list[int]]) -> None:
        into = np.array([prompt for prompt, _ in joining])
        self.index = max(self.index, int(into.max()))
        self.width = max(self.width, self._width(into.tolist()))
        self.lengths = np.concatenate([self.lengths, into])
        self.left = np.concatenate([self.left, np.array([out for _, out in joining])])

    def _width(self, into: list[int]) -> int:
        return -(-max(into, default=0) // self.STEP) * self.STEP


def padded(case: Case, lengths: np.ndarray, rows: int) -> tuple[Found, float]:
    """Replay mlx-lm's batch cache with so many rows; the second figure is the most it ever held."""
    batch, arrivals = Padded(rows), itertools.cycle(lengths.tolist())
    seen = np.array([batch.step(arrivals) for _ in range(case.steps)])
    at_once, used, held = map(float, seen[case.warm_up :].mean(axis=0))
    return Found(at_once, 1 - used / held, most=rows), float(seen[:, 2].max())


def padded_at_once(case: Case, lengths: np.ndarray) -> Found:
    """mlx-lm's batch cache with the most rows whose cache never passes the budget."""
    low, high = 1, case.budget // int(mean_resident(lengths))
    while low < high:
        middle = (low + high + 1) // 2
        if padded(case, lengths, middle)[1] <= case.budget:
            low = middle
        else:
            high = middle - 1
    return padded(case, lengths, low)[0]


def cases(budget: int, quick: bool, seed: int) -> list[Case]:
    """Each sigma with pages of 16, then other page sizes, then several tokens a step."""
    steps, warm_up = (1000, 500) if quick else (2400, 1000)
    wanted = [(sigma, 16, 0) for sigma in SIGMAS]
    wanted += [(0.7, 8, 0), (0.7, 32, 0), (0.7, 16, DRAFTS)]
    return [Case(sigma, size, drafts, budget, steps, warm_up, seed) for sigma, size, drafts in wanted]


def lines(case: Case, lengths: np.ndarray, ours: Found, theirs: Found) -> list[list[str]]:
    """A row of the table for pages, and one for mlx-lm where it is worth one."""
    reserved = case.budget // LONGEST
    name = f"pages of {case.page_size}" + (f", K = {case.drafts}" if case.drafts else "")
    again = f"{ours.read_again:,} ({ours.read_again / max(1, ours.tokens):.1%})"
    rows = [
        [name, f"{case.sigma}", f"{ours.at_once:.1f}", f"{ours.at_once / reserved:.2f}",
         f"{ours.at_once / theirs.at_once:.2f}", f"{ours.unused_fraction:.2%}", f"{ours.preemptions:,}", again]
    ]  # fmt: skip
    if case.page_size == 16 and not case.drafts:
        rows.append(
            ["  mlx-lm's batch cache", f"{case.sigma}", f"{theirs.at_once:.1f}", f"{theirs.at_once / reserved:.2f}",
             "1.00", f"{theirs.unused_fraction:.2%}", "", ""]
        )  # fmt: skip
        used = mean_resident(lengths) / LONGEST
        rows.append(
            ["  reservation", f"{case.sigma}", f"{reserved}", "1.00", f"{reserved / theirs.at_once:.2f}",
             f"{1 - used:.2%}", "", ""]
        )  # fmt: skip
    return rows


@measurement
@click.option("--quick", is_flag=True, help="A quarter of the budget and fewer steps.")
@click.option(
    "--reservations", type=click.IntRange(1), help="Memory budget, in full-length contexts.  [default: 64, quick 16]"
)
@click.option("--seed", default=0, show_default=True, help="Seed for the lengths.")
def main(quick: bool, reservations: int | None, seed: int) -> Measured:
    """Count the sequences that fit in a fixed KV budget, and the share of it left unused."""
    budget = (reservations or (16 if quick else 64)) * LONGEST
    figures, shown, found = [], [], []
    for case in cases(budget, quick, seed):
        lengths = draw(case)
        ours, theirs = pages_at_once(case, lengths), padded_at_once(case, lengths)
        shown += lines(case, lengths, ours, theirs)
        figures.append({"case": asdict(case), "pages": asdict(ours), "mlx_lm": asdict(theirs)})
        if case.page_size == 16:
            what = f"sigma {case.sigma}" + (f", K = {case.drafts}" if case.drafts else "")
            times = ours.at_once / (budget // LONGEST)
            met = times >= ASKED_TIMES
            found.append(Asked(f"{what}: at once, by reservation", f"at least {ASKED_TIMES}", f"{times:.2f}", met))
            met = ours.unused_fraction < ASKED_WASTE
            found.append(Asked(f"{what}: held in vain", f"below {ASKED_WASTE:.0%}", f"{ours.unused_fraction:.2%}", met))
    click.echo(
        f"A budget of {budget:,} positions, tails included; contexts up to {LONGEST:,}; log-normal lengths with means "
        f"{MEANS[0]:.0f} in and {MEANS[1]:.0f} out;\naverages over the last {case.steps - case.warm_up:,} of "
        f"{case.steps:,} steps; preemptions, and tokens read again for them, over all steps\n"
    )
    heads = [
        "",
        "sigma",
        "at once",
        "x reservation",
        "x mlx-lm",
        "unused",
        "preempted",
        "read again (of emitted)",
    ]
    table(heads, shown)
    return figures, found
