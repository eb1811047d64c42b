"""Minutes of random load on a small random pair, with checks at the end.

    helix-mlx bench soak [--minutes 20] [--seed 0] [--quick] [--out FILE]

Requests arrive in bursts and singly, long and short, some with a common beginning, at any temperature, with seeds and
without, with drafts and without, of any priority, with one answer or several; some are cancelled. The pool holds fewer
pages than they want, so that there is preemption. Some are read chunk by chunk by other threads, others are waited for.

At the end memory has not grown, no page is held, `close()` has returned at once in the midst of work, no thread is
left, and a sample of greedy and seeded answers is what the same request gets alone, without a draft or a prefix cache.
With `--check` the exit code is 1 where anything of that is not so.
"""

from __future__ import annotations

import os
import queue
import random
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import mlx.core as mx

from helix_mlx.bench.fixtures.models import pair_of, random_llama
from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.handle import Handle
from helix_mlx.errors import ClosedError
from helix_mlx.models.pair import Pair
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams

CONTEXT, PAGES, PAGE = 512, 56, 16
OUTSTANDING = 28
"""Requests at once, answered and waiting."""
SAMPLE = 150
"""Answers that are held to the same request alone."""
GROWTH = 0.05
CLOSE_S = 1.0
DRAIN_S = 120.0


@dataclass
class Running:
    """A request that has been submitted, and what will happen to it."""

    prompt: list[int]
    request: Request
    handle: Handle
    cancel_at: float
    read_by_thread: bool


@dataclass(frozen=True)
class SampledAnswer:
    """An answer of the sample: what was asked, and its tokens."""

    prompt: list[int]
    params: SamplingParams
    tokens: list[int]


@dataclass
class Moment:
    """Memory at one moment, in bytes."""

    at_s: float
    resident: int
    active: int


@dataclass
class Outcome:
    """What has been seen."""

    submitted: int = 0
    finished: int = 0
    cancelled: int = 0
    errors: list[str] = field(default_factory=list)
    sample: list[SampledAnswer] = field(default_factory=list)
    eligible: int = 0
    memory: list[Moment] = field(default_factory=list)


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
        return int(shown.stdout) * 1024


def random_request(chance: random.Random, prompt: list[int]) -> Request:
    """Any way to answer a prompt."""
    greedy = chance.random() < 0.4
    params = SamplingParams(
        max_tokens=chance.choice((1, 4, 16, 48, 120)),
        temperature=0.0 if greedy else chance.choice((0.3, 0.8, 1.2)),
        top_p=chance.choice((1.0, 1.0, 0.9)),
        top_k=chance.choice((0, 0, 12)),
        seed=chance.choice((None, chance.getrandbits(64))),
    )
    return Request(
        prompt,
        params,
        draft_tokens=chance.choice((None, 0, chance.randint(1, MAX_DRAFT_TOKENS))),
        drafter=chance.choice((None, None, None, "ngram", "none")),
        priority=chance.choice((0, 0, 0, 1, -1)),
        n=chance.choice((1, 1, 1, 1, 2, 4)),
    )


class Readers:
    """Threads that read handles chunk by chunk, and see that the pieces are the whole."""

    def __init__(self, count: int) -> None:
        self._handles: queue.SimpleQueue[Handle | None] = queue.SimpleQueue()
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._read) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def add(self, handle: Handle) -> None:
        """Read it when a thread is free."""
        self._handles.put(handle)

    def close(self) -> None:
        """Wait for all that was added."""
        for _ in self._threads:
            self._handles.put(None)
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        while (handle := self._handles.get()) is not None:
            try:
                pieces: dict[int, str] = {}
                for chunk in handle:
                    pieces[chunk.index] = pieces.get(chunk.index, "") + chunk.text
                for index, completion in enumerate(handle.results()):
                    if pieces.get(index, "") != completion.text:
                        self.errors.append("the chunks of an answer are not its text")
            except Exception as error:  # noqa: BLE001, RUF100 -- it is what the soak looks for
                self.errors.append(f"{type(error).__name__}: {error}")


class Soak:
    """The load on one engine.

    Args:
        engine: under load.
        seed: of everything random.
    """

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._chance = random.Random(seed)
        self._vocab_size = engine.pair.target.vocab_size
        self._prefixes = [self._chance.choices(range(self._vocab_size), k=k) for k in (16, 40, 100, 160)]
        self._running: list[Running] = []
        self._readers = Readers(2)
        self.outcome = Outcome()

    def run(self, seconds: float) -> None:
        """Load for so long, then let everything come to its end."""
        began = time.perf_counter()
        next_submit = next_look = next_line = 0.0
        while (now := time.perf_counter() - began) < seconds:
            if now >= next_submit:
                for _ in range(self._chance.choice((1, 1, 2, 6))):
                    self._submit()
                next_submit = now + self._chance.expovariate(8.0)
            self._collect()
            if now >= next_look:
                self.outcome.memory.append(Moment(now, resident_bytes(), mx.get_active_memory()))
                next_look = now + 1.0
            if now >= next_line:
                self._line(now)
                next_line = now + min(60.0, seconds / 4)
            time.sleep(0.005)
        deadline = time.perf_counter() + DRAIN_S
        while self._running and time.perf_counter() < deadline:
            self._collect()
            time.sleep(0.005)
        self._line(time.perf_counter() - began)
        if self._running:
            self.outcome.errors.append(f"{len(self._running)} requests have not ended {DRAIN_S:.0f} s after the last")
            for running in self._running:
                running.handle.cancel()
        self._readers.close()
        self.outcome.errors += self._readers.errors

    def _submit(self) -> None:
        if len(self._running) >= OUTSTANDING:
            return
        chance = self._chance
        prompt = list(chance.choice(self._prefixes)) if chance.random() < 0.4 else []
        prompt += chance.choices(range(self._vocab_size), k=chance.choice((1, 3, 20, 60, 200)))
        request = random_request(chance, prompt)
        handle = self._engine.submit(request)
        cancel_at = time.perf_counter() + chance.expovariate(2.0) if chance.random() < 0.15 else float("inf")
        running = Running(prompt, request, handle, cancel_at, chance.random() < 0.3)
        if running.read_by_thread:
            self._readers.add(handle)
        self._running.append(running)
        self.outcome.submitted += 1

    def _collect(self) -> None:
        now = time.perf_counter()
        for running in list(self._running):
            if running.handle.done:
                self._running.remove(running)
                self._end(running)
            elif now >= running.cancel_at:
                running.cancel_at = float("inf")
                running.handle.cancel()

    def _end(self, running: Running) -> None:
        outcome, request = self.outcome, running.request
        try:
            completions = running.handle.results()
        except Exception as error:  # noqa: BLE001, RUF100 -- it is what the soak looks for
            outcome.errors.append(f"{type(error).__name__}: {error}")
            return
        for index, completion in enumerate(completions):
            if completion.finish_reason == "cancelled":
                outcome.cancelled += 1
                continue
            outcome.finished += 1
            params = request.params
            assert params is not None
            if params.rule not in ("greedy", "coupled"):
                continue
            if params.seed is not None:
                params = replace(params, seed=(params.seed + index) % 2**64)
            self._sample(SampledAnswer(running.prompt, params, completion.tokens))

    def _sample(self, kept: SampledAnswer) -> None:
        """A sample in which every answer has the same chance to be."""
        self.outcome.eligible += 1
        if len(self.outcome.sample) < SAMPLE:
            self.outcome.sample.append(kept)
        elif (place := self._chance.randrange(self.outcome.eligible)) < SAMPLE:
            self.outcome.sample[place] = kept

    def _line(self, now: float) -> None:
        metrics, outcome = self._engine.metrics(), self.outcome
        click.echo(
            f"{now:6.0f} s  finished {outcome.finished:,}  cancelled {outcome.cancelled:,}  running {metrics.running}  "
            f"waiting {metrics.waiting}  preempted {metrics.preemptions:,}  drafts kept {metrics.acceptance:.0%}  "
            f"found {metrics.prefix_hit_tokens:,}  "
            f"pages {metrics.pages_used}+{metrics.pages_cached} of {metrics.pages_total}  "
            f"resident {resident_bytes() / 1e6:.0f} MB  active {mx.get_active_memory() / 1e6:.1f} MB"
        )


def growth(memory: list[Moment], name: str) -> float:
    """By how much the last third is above the first; the first tenth, in which everything is made, is left out."""
    figures = [getattr(each, name) for each in memory[len(memory) // 10 :]]
    third = max(1, len(figures) // 3)
    return statistics.median(figures[-third:]) / statistics.median(figures[:third]) - 1


def close_in_the_midst(engine: Engine) -> tuple[float, int]:
    """Close an engine that is answering; returns the seconds, and how many readers were not told."""
    handles = [engine.submit([number + 1] * 100, max_tokens=CONTEXT) for number in range(12)]
    while not engine.metrics().running:
        time.sleep(0.001)
    began = time.perf_counter()
    engine.close()
    took, untold = time.perf_counter() - began, 0
    for handle in handles:
        try:
            handle.result(timeout=1)
            untold += 1
        except ClosedError:
            pass
        except TimeoutError:
            untold += 1
    return took, untold


def differing(pair: Pair, sample: list[SampledAnswer]) -> int:
    """How many answers are not what the same request gets alone."""
    found = 0
    with Engine(pair, EngineConfig(max_context=CONTEXT, prefix_cache=False, drafter="none")) as engine:
        for kept in sample:
            found += engine.generate(kept.prompt, kept.params).tokens != kept.tokens
    return found


def make_pair() -> Pair:
    """A pair that is fast, and whose draft is right now and then."""
    target = random_llama(0, quantized=True, max_position_embeddings=CONTEXT)
    draft = random_llama(0, quantized=True, max_position_embeddings=CONTEXT, num_hidden_layers=1)
    return pair_of(target, draft)


def judge(outcome: Outcome, held: int, preempted: int, differ: int) -> list[Asked]:
    """What has to be so, but for closing."""
    found = []
    for name in ("resident", "active"):
        grown = growth(outcome.memory, name)
        met = grown <= GROWTH
        found.append(Asked(f"{name} memory, last third by first", f"at most {GROWTH:+.0%}", f"{grown:+.2%}", met))
    sample = len(outcome.sample)
    found.append(Asked("pages held after the last answer", "0", f"{held}", held == 0))
    found.append(Asked("preemptions, so that they were tried", "some", f"{preempted:,}", preempted > 0))
    found.append(Asked("errors", "0", f"{len(outcome.errors)}", not outcome.errors))
    met = differ == 0 < sample
    found.append(Asked(f"of {sample} answers, other than alone", "0", f"{differ}", met))
    return found


@measurement
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Duration in minutes.  [default: 20, quick 0.5]"
)
@click.option("--seed", default=0, show_default=True, help="Seed for the load.")
@click.option("--quick", is_flag=True, help="Half a minute.")
def main(minutes: float | None, seed: int, quick: bool) -> Measured:
    """Run a random load, then check that nothing was lost or leaked."""
    before = set(threading.enumerate())
    pair = make_pair()
    assert pair.draft is not None
    per_page = PagePool.bytes_per_page([pair.target.layers, pair.draft.layers], PAGE)
    memory = (PAGES + 1) * per_page
    config = EngineConfig(kv_memory=memory, max_context=CONTEXT, max_sequences=12, prefill_chunk=64, page_size=PAGE)
    engine = Engine(pair, config)
    soak = Soak(engine, seed)
    soak.run(60 * (minutes or (0.5 if quick else 20.0)))
    outcome, metrics = soak.outcome, engine.metrics()
    took, untold = close_in_the_midst(engine)
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    found = judge(outcome, metrics.pages_used, metrics.preemptions, differing(pair, outcome.sample))
    found.append(Asked("close() while answering", f"within {CLOSE_S:.0f} s", f"{took:.3f} s", took < CLOSE_S))
    found.append(Asked("readers that close() did not tell", "0", f"{untold}", untold == 0))
    found.append(Asked("threads left", "none", ", ".join(left) or "none", not left))
    for error in sorted(set(outcome.errors)):
        click.echo(f"error, {outcome.errors.count(error)} times: {error}")
    figures: dict[str, Any] = {"memory": [vars(each) for each in outcome.memory], "metrics": metrics.to_json()}
    return figures, found
