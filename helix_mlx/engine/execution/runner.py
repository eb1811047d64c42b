"""Carries out what the scheduler decides: admits, reads prompts, runs cycles, commits, and lets go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx

from helix_mlx.engine.execution.batch import Batch
from helix_mlx.engine.execution.checkpoints import Checkpoints
from helix_mlx.engine.execution.cycle import InFlightStep, Models, cycle, tail_slots
from helix_mlx.engine.execution.prefill import Prefill
from helix_mlx.engine.execution.run_ahead import WaitsFor, waits_for
from helix_mlx.engine.memory import grow, held_beside
from helix_mlx.engine.metrics import Counters, Metrics
from helix_mlx.engine.scheduling.draft_policy import DraftPolicy
from helix_mlx.engine.scheduling.scheduler import Scheduler
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.errors import LogitsError
from helix_mlx.paging.page_pool import TARGET, PagePool
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.request import MAX_DRAFT_TOKENS, Chunk

Event = tuple[Sequence, list[Chunk]]
"""Chunks of one answer; the last one of an answer has its finish reason. One that failed and has let go has none."""


class Runner:
    """The sequences of an engine, step by step. One thread calls it, which owns MLX.

    Args:
        models: target and draft.
        pool: their pages.
        cache: the prefix cache over them.
        scheduler: decides whose turn it is.
        policy: decides who drafts and how many, for those who leave it open.
        lookahead: cycles that are enqueued before one is read; None is one where nobody drafts, else none.
    """

    def __init__(
        self,
        models: Models,
        pool: PagePool,
        cache: PrefixCache,
        scheduler: Scheduler[Sequence],
        policy: DraftPolicy,
        lookahead: int | None,
    ) -> None:
        self._models = models
        self._pool = pool
        self._cache = cache
        self._scheduler = scheduler
        self.policy = policy
        self._lookahead = lookahead
        self._batch: Batch | None = None
        self._decode: list[tuple[Sequence, int]] = []
        self._steps_in_flight: deque[InFlightStep] = deque()
        self._steady = False
        self._device_idle = True
        self._arrivals = 0
        self._count = Counters()
        self._checkpoints = Checkpoints(pool, cache)
        self._prefill = Prefill(models, pool, cache, self._checkpoints, lookahead, self._count)
        self._read_at: float | None = None
        """When the cycle before was read, where nothing else was done since."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._scheduler.waiting or self._scheduler.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; its copies come after it."""
        for each in (sequence, *sequence.copies):
            each.arrival, self._arrivals = self._arrivals, self._arrivals + 1
        self._scheduler.add(sequence)
        self._count.requests += 1 + len(sequence.copies)
        self._steady = False

    def step(self) -> list[Event]:
        """One step: read a chunk of prompts, and run a cycle of all answers.

        Returns:
            What came out of it, for each answer.
        """
        began = time.perf_counter()
        events: list[Event] = []
        if not self._steps_in_flight:
            events += self._finish()
            self._plan()
            self._launch()
        if self._steps_in_flight and self._waits_for() is None:
            self._launch()
        if self._steps_in_flight:
            events += self._read()
        if not self._steps_in_flight:
            events += self._finish()
        self._count.busy_s += time.perf_counter() - began
        return events

    def abandon(self) -> list[Sequence]:
        """After an error: forget everything, since nothing that was read can be trusted; return who was there."""
        held = [*self._scheduler.running, *self._scheduler.waiting]
        gone = held + [copy for sequence in held for copy in sequence.copies]
        self._steps_in_flight.clear()
        self._batch, self._decode = None, []
        for sequence in held:
            self._scheduler.remove(sequence)
        for sequence in gone:
            sequence.copies = []
            sequence.kv.release()
        self._cache.clear()
        self._count.failed += len(gone)
        return gone

    @contextmanager
    def isolated(self, policy: DraftPolicy) -> Iterator[None]:
        """Run sequences that are nobody's: with a policy of their own, and afterwards nothing is left of them.

        One of them has room for every K, however few rows a pass has otherwise.
        """
        assert self.idle
        before, counts, limits = self.policy, vars(self._count).copy(), self._scheduler.limits
        self.policy = policy
        self._scheduler.limits = replace(limits, max_rows=max(limits.max_rows, MAX_DRAFT_TOKENS + 1))
        try:
            yield
        finally:
            self.abandon()
            mx.synchronize()
            self._device_idle = True
            self.policy, self._scheduler.limits = before, limits
            vars(self._count).update(counts)

    @property
    def population(self) -> tuple[int, int]:
        """How many run, and how many wait."""
        return len(self._scheduler.running), len(self._scheduler.waiting)

    def metrics(self) -> Metrics:
        """What has been done, and what is held now."""
        allocator, running = self._pool.allocator, self._scheduler.running
        tail_bytes, unused = held_beside(self._pool, running, tail_slots(self._pool.page_size, self._lookahead))
        return Metrics(
            running=len(running),
            waiting=len(self._scheduler.waiting) + sum(len(s.copies) for s in (*running, *self._scheduler.waiting)),
            pages_total=allocator.pages_total,
            pages_used=allocator.pages_used,
            pages_cached=allocator.pages_cached,
            kv_bytes=self._pool.nbytes,
            kv_budget=self._pool.nbytes_most + self._pool.set_aside,
            tail_bytes=tail_bytes,
            state_bytes=len(running) * self._pool.state_bytes,
            snapshot_bytes=self._cache.snapshots.nbytes,
            unused_fraction=unused,
            **vars(self._count),
        )

    # What may change while the device is idle.

    def _finish(self) -> list[Event]:
        """Let those go that have ended or are not wanted any more; the device is idle."""
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if sequence.cancel_wanted and not sequence.finished:
                sequence.finish_reason = "cancelled"
        gone = [s for s in (*self._scheduler.running, *self._scheduler.waiting) if s.finished]
        if not gone:
            return []
        if self._batch is not None and any(s.finished for s in self._batch.sequences):
            self._commit()
            self._arrange_batch([(s, count) for s, count in self._decode if not s.finished])
        events: list[Event] = []
        for sequence in gone:
            self._scheduler.remove(sequence)
            self._start_copies(sequence, [])
            sequence.kv.release()
            events.append((sequence, self._last_chunks(sequence)))
            with sequence.failing_alone():
                for drafter in sequence.drafting.token_drafters.values():
                    drafter.release()
        self._steady = False
        return events

    def _last_chunks(self, sequence: Sequence) -> list[Chunk]:
        """What ends an answer: one chunk, or none where it has failed."""
        rest = ""
        if sequence.error is None:
            with sequence.failing_alone():
                rest = sequence.finish_text()
        if sequence.error is not None:
            self._count.failed += 1
            return []
        stats = sequence.stats
        if stats.emitted:
            stats.decode_s = time.perf_counter() - sequence.times.first_token
            stats.tokens_per_s = (stats.emitted - 1) / stats.decode_s if stats.decode_s > 0 else 0.0
        if sequence.finish_reason == "cancelled":
            self._count.cancelled += 1
        else:
            self._count.finished += 1
        return [Chunk(rest, finish_reason=sequence.finish_reason, stats=stats, index=sequence.index)]

    def _plan(self) -> None:
        """Commit, change who runs, and read what has to be read before the next cycle."""
        if self._batch is not None and self._batch.has_full_page():
            self._commit()
        begun = [s for s in self._scheduler.running if s.emitted_count and s.kv.target_length == s.length]
        self.policy.choose(begun, self._scheduler.most_drafts(len(begun)))
        asking = [s for s in begun if s.drafting.uses_model and s.draft_wanted]
        for sequence in self._scheduler.running:
            sequence.drafting.only_model_user = asking == [sequence]
        prefill = self._prefill
        if grow(self._pool, self._scheduler, prefill.pages_needed):
            self._read_at = None  # no cycle takes as long
        admission = self._scheduler.admit(self._pool.allocator.pages_free, prefill.pages_needed, prefill.pages_returned)
        for sequence in admission.preempt:
            self._preempt(sequence)
        for sequence in admission.admit:
            prefill.begin(sequence)
        plan = self._scheduler.plan()
        for sequence, count in plan.prefill:
            prefill.read_target(sequence, count)
        for sequence, count in plan.draft_prefill:
            began, before = time.perf_counter(), sequence.kv.draft_length
            prefill.read_draft(sequence, count)
            self.policy.note_read(sequence.kv.draft_length - before, time.perf_counter() - began)
        decode = self._with_copies(plan.decode)
        self._arrange_batch(decode)
        self._decode = decode
        first = any(s.emitted_count == 0 for s, _ in decode)
        others = bool(plan.prefill or plan.draft_prefill or first)
        # Who waits now goes on waiting until somebody ends or arrives, unless pages were made free for others just now.
        self._steady = not (others or admission.preempt)
        if others or admission.preempt or admission.admit:
            self._device_idle, self._read_at = False, None

    def _arrange_batch(self, decode: list[tuple[Sequence, int]]) -> None:
        if not decode:
            self._batch = None
            return
        sequences = [s for s, _ in decode]
        if self._batch is None:
            self._batch = Batch(sequences, self._checkpoints)
        # A head reads along in every cycle.
        ready = sequences if self._models.head else [s for s, count in decode if count and self._may_draft(s)]
        self._batch.arrange(sequences, ready)

    def _may_draft(self, sequence: Sequence) -> bool:
        # Before its first token a sequence may have no last two tokens to read.
        return sequence.emitted_count > 0 and sequence.drafting.uses_model and not sequence.draft_prefill_needed

    def _commit(self) -> None:
        assert self._batch is not None
        if not self._device_idle:
            mx.synchronize()
        self._device_idle = False
        self._batch.commit()
        for sequence, done in zip(self._batch.sequences, self._batch.target.committed, strict=True):
            self._cache.add(sequence.kv.table, sequence.tokens, done // self._pool.page_size)
            self._checkpoints.commit(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's pages for older ones; it comes back by reading its tokens again."""
        assert not sequence.finished
        if self._batch is not None and sequence in self._batch.sequences:
            self._arrange_batch([(s, 0) for s in self._batch.sequences if s is not sequence])
        sequence.kv.release()
        sequence.stats.preemptions += 1
        self._count.preemptions += 1

    def _with_copies(self, decode: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """Those who run a cycle now, with the copies of those that have just read their prompt."""
        before = len(decode)
        for sequence, _ in list(decode):
            if sequence.copies:
                decode = self._start_copies(sequence, decode)
        cap = self._scheduler.most_drafts(len(decode))
        return decode if len(decode) == before else [(s, min(count, cap)) for s, count in decode]

    def _start_copies(self, sequence: Sequence, decode: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """Fork a sequence that has read its prompt, into as many of its copies as may run now; the others wait."""
        copies, sequence.copies = sequence.copies, []
        for copy in copies:
            if decode and self._scheduler.start(copy, self._pool.allocator.pages_free):
                self._prefill.fork(sequence, copy)
                decode = [*decode, (copy, 0)]
            else:
                self._scheduler.add(copy)
        return decode

    # The cycle.

    def _waits_for(self) -> WaitsFor | None:
        """Why the next cycle is not enqueued before the last one is read; None where it may be."""
        if self._batch is None or not self._steady:
            return WaitsFor.OTHER_WORK
        return waits_for(
            self._batch, self._decode, self._scheduler, self.policy, self._pool.allocator.pages_free, self._lookahead
        )

    def _launch(self) -> None:
        batch = self._batch
        if batch is None:
            return
        asked = {id(sequence): count for sequence, count in self._decode}
        counts = [asked[id(sequence)] for sequence in batch.sequences]
        proposed = self._look_up(batch, counts)
        in_flight = sum(max(step.counts) + 1 for step in self._steps_in_flight)
        certain = not any(count for step in self._steps_in_flight for count in step.counts)
        packed, checkpoints = cycle(self._models, batch, counts, proposed, in_flight, certain)
        drafting = set(batch.asked(counts, proposed))
        self._device_idle = False
        self._steps_in_flight.append(InFlightStep(packed, list(batch.sequences), counts, drafting, checkpoints))
        self._count.target_passes += 1

    def _look_up(self, batch: Batch, counts: list[int]) -> dict[int, list[int]]:
        """The drafts of token drafters, by row; `counts` becomes what they had."""
        proposed: dict[int, list[int]] = {}
        for row, sequence in enumerate(batch.sequences):
            drafter = sequence.drafting.next_token_drafter
            if drafter is None or not counts[row]:
                continue
            tokens: list[int] = []
            with sequence.failing_alone():
                tokens = drafter.propose(sequence.tokens, counts[row])[: counts[row]]
            # From an id on that no token has, nothing can be kept.
            known = next((n for n, t in enumerate(tokens) if not 0 <= t < self._models.vocab_size), len(tokens))
            counts[row] = known
            if known:
                proposed[row] = tokens[:known]
        return proposed

    def _read(self) -> list[Event]:
        """Wait for the oldest cycle and take its tokens: the one host synchronisation of a cycle."""
        step = self._steps_in_flight.popleft()
        if not self._steps_in_flight:
            # As good a wait as the next line's, and after it a commit finds the device idle.
            mx.synchronize()
            self._device_idle = True
        rows: Any = step.packed.tolist()
        now = time.perf_counter()
        seconds = None if self._read_at is None else now - self._read_at
        self._read_at = now
        kept = [max(0, row[0]) for row in rows]
        outcomes = list(zip(step.sequences, step.counts, kept, strict=True))
        self.policy.note(outcomes, bool(step.drafting), seconds)
        events: list[Event] = []
        for row, (sequence, (kept, *tokens)) in enumerate(zip(step.sequences, rows, strict=True)):
            if sequence.finished:
                continue
            count = step.counts[row]
            drafted = max(step.counts) if row in step.drafting else 0
            with sequence.failing_alone():
                if kept < 0:
                    raise LogitsError(
                        f"the target's logits are not finite at token {sequence.emitted_count + 1} of the answer: its "
                        "weights are damaged, or overflow their type; download or convert the model again"
                    )
                events.append((sequence, self._take(sequence, tokens[: kept + 1], count, drafted)))
                for checkpoint in step.checkpoints:
                    read = sequence.length if checkpoint.model == TARGET else sequence.kv.draft_length
                    self._checkpoints.note(checkpoint, row, sequence, read)
        return events

    def _take(self, sequence: Sequence, tokens: list[int], count: int, draft_passes: int) -> list[Chunk]:
        stats = sequence.stats
        stats.host_syncs += 1
        if sequence.emitted_count == 0:
            stats.prefill_tokens += 1  # the last token of the prompt, which this cycle has read
            self._count.prefill_tokens += 1
            sequence.times.first_token = time.perf_counter()
            stats.time_to_first_token_s = sequence.times.first_token - sequence.times.submitted
        else:
            stats.target_passes += 1
            stats.draft_passes += draft_passes
            stats.note_cycle(sequence.drafting.next_drafter, count)
        before = stats.accepted
        chunks = sequence.accept(tokens, count)
        self._count.emitted += len(chunks)
        self._count.drafted += count
        self._count.accepted += stats.accepted - before
        drafter = sequence.drafting.next_token_drafter
        if count and drafter is not None:
            drafter.observe(count, stats.accepted - before)
        sequence.kv.target_length = sequence.length
        if self._models.head is not None:
            sequence.kv.draft_length, sequence.kv.hidden_known = sequence.length, True
        elif draft_passes:
            sequence.kv.draft_length = sequence.length - 1
        return chunks
