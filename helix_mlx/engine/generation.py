"""From admitted sequences to finished ones: prefill, the first token, then cycles until each has ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from helix_mlx.engine.batch import Batch
from helix_mlx.engine.sequence import Sequence
from helix_mlx.engine.step import cycle, prefill
from helix_mlx.models.loader import LanguageModel
from helix_mlx.request import Chunk
from helix_mlx.speculative.drafter import Drafter

Cancel = Callable[[], bool]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Runner:
    """What generation runs on.

    `draft` is the model that `drafter` asks; both are None without one. Past `draft_context` positions the draft
    is not asked: it was not made for them. `chunk` is the positions of a prefill pass, `lookahead` the cycles
    enqueued before one is read. `check_open` raises ClosedError once the engine is closed.
    """

    target: LanguageModel
    draft: LanguageModel | None
    drafter: Drafter | None
    draft_context: int
    chunk: int
    lookahead: int
    check_open: Callable[[], None]


class Generation:
    """One group of sequences, from prefill to the end.

    Args:
        runner: the models.
        sequences: admitted together; what a model has read already it does not read again.
        draft_tokens: K.
        cancel: asked between passes; True ends every answer where it is.
        progress: told of prefilled tokens, done and in all.
    """

    def __init__(
        self,
        runner: Runner,
        sequences: Seq[Sequence],
        draft_tokens: int,
        cancel: Cancel | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._runner = runner
        self._sequences = list(sequences)
        self._count = draft_tokens if runner.drafter is not None else 0
        self._cancel = cancel or (lambda: False)
        self._progress = progress or (lambda done, total: None)
        self._batch: Batch | None = None
        self._pending: deque[tuple[mx.array, int, list[Sequence]]] = deque()
        self._began = self._resumed = time.perf_counter()
        self._busy = 0.0  # seconds of decoding, without those in which the reader held a chunk

    def run(self) -> Generator[tuple[Sequence, Chunk]]:
        """Generate until every sequence has a finish reason.

        Closing the generator, or letting it end, leaves nothing in flight and each sequence with its own keys and
        values again. After an error the sequences have forgotten what was read. The pages are the caller's to
        release.
        """
        intact = False
        try:
            if self._prefill():
                self._batch = Batch(self._sequences)
                yield from self._decode(self._batch)
            intact = True
        except GeneratorExit:
            intact = True
            raise
        finally:
            self._end(intact)

    def _end(self, intact: bool) -> None:
        self._pending.clear()
        for sequence in self._sequences:
            if sequence.finish_reason is None:
                sequence.finish_reason = "cancelled"
                self._time(sequence)
        parted = False
        try:
            if intact:
                mx.synchronize()
                if self._batch is not None:
                    self._batch.part()
                parted = True
        finally:
            if not parted:
                for sequence in self._sequences:
                    sequence.forget()

    def _prefill(self) -> bool:
        """The target reads all tokens but the last of each sequence; False where it was cancelled."""
        total = sum(s.length - s.target_length for s in self._sequences)
        before = 0
        for sequence in self._sequences:
            start = sequence.target_length

            def between(done: int, sequence: Sequence = sequence, start: int = start, before: int = before) -> bool:
                sequence.target_length = start + done
                sequence.stats.prefill_tokens = done
                sequence.stats.prefill_s = time.perf_counter() - self._began
                self._progress(before + done, total)
                return self._goes_on()

            missing = sequence.tokens[start : sequence.length]
            prefill(self._runner.target, sequence.target, missing, start, self._runner.chunk, between)
            if sequence.target_length < sequence.length or not self._goes_on():
                return False
            before += len(missing)
        return True

    def _prefill_draft(self, batch: Batch) -> bool:
        """The draft reads what it has not read yet, all but the last two tokens; False where it was cancelled."""
        assert self._runner.draft is not None
        for sequence in batch.sequences:
            assert sequence.draft is not None
            start = sequence.draft_length

            def between(done: int, sequence: Sequence = sequence, start: int = start) -> bool:
                sequence.draft_length = start + done
                return self._goes_on()

            missing = sequence.tokens[start : sequence.length - 1]
            prefill(self._runner.draft, sequence.draft, missing, start, self._runner.chunk, between)
            if sequence.draft_length < sequence.length - 1:
                return False
        batch.join_draft()
        return True

    def _goes_on(self) -> bool:
        self._runner.check_open()
        return not self._cancel()

    def _decode(self, batch: Batch) -> Iterator[tuple[Sequence, Chunk]]:
        # The first token of each sequence is a cycle without drafts, which belongs to the prefill.
        self._enqueue(batch, 0)
        yield from self._read(batch)
        with self._working():
            if not self._goes_on():
                return
            self._settle(batch)
            if batch.sequences and self._draft_fits(batch) and not self._prefill_draft(batch):
                return
        draining = False
        while batch.sequences:
            if not self._goes_on():
                return
            with self._working():
                if not draining:
                    self._enqueue(batch, self._count if self._draft_fits(batch) else 0)
                events = []
                if draining or len(self._pending) > self._runner.lookahead:
                    events = self._read(batch)
                    draining = batch.due() or any(s.finish_reason for s in batch.sequences)
            yield from events
            if draining and not self._pending:
                with self._working():
                    self._settle(batch)
                draining = False

    def _draft_fits(self, batch: Batch) -> bool:
        """Whether there is a draft to ask. Once a sequence is too long for it, this batch goes on without."""
        if max(batch.lengths) + 2 * (self._count + 1) > self._runner.draft_context:
            self._count = 0
        return self._count > 0

    def _enqueue(self, batch: Batch, count: int) -> None:
        in_flight = sum(ahead + 1 for _, ahead, _ in self._pending)
        packed = cycle(self._runner.target, self._runner.drafter, batch, count, in_flight)
        self._pending.append((packed, count, list(batch.sequences)))

    def _read(self, batch: Batch) -> list[tuple[Sequence, Chunk]]:
        """Wait for the oldest cycle and take its tokens: the one host synchronisation of a cycle."""
        packed, count, sequences = self._pending.popleft()
        if not self._pending:
            # As good a wait as the next line's, and after it a commit finds the device idle.
            mx.synchronize()
        rows: Any = packed.tolist()
        events: list[tuple[Sequence, Chunk]] = []
        first = not any(s.stats.emitted for s in sequences)
        for sequence, (kept, *tokens) in zip(sequences, rows, strict=True):
            if sequence.finish_reason:
                continue
            stats = sequence.stats
            stats.host_syncs += 1
            if first:
                stats.prefill_tokens += 1  # the last token of the prompt, which this cycle has read
                stats.time_to_first_token_s = time.perf_counter() - self._began
            else:
                stats.target_passes += 1
                stats.draft_passes += count
            events += [(sequence, chunk) for chunk in sequence.accept(tokens[: kept + 1], count)]
            sequence.target_length = sequence.length
            if count:
                sequence.draft_length = sequence.length - 1
            if sequence.finish_reason and not first:
                self._time(sequence)
        return events

    def _settle(self, batch: Batch) -> None:
        """With nothing in flight: let finished sequences go and commit full pages."""
        if any(s.finish_reason for s in batch.sequences):
            batch.part()
        if batch.sequences and batch.due():
            batch.commit()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Counts the time of its body as decoding."""
        self._resumed = time.perf_counter()
        try:
            yield
        finally:
            self._busy += time.perf_counter() - self._resumed
            self._resumed = time.perf_counter()

    def _time(self, sequence: Sequence) -> None:
        """Note how long the decoding of an answer took, once it has ended."""
        stats = sequence.stats
        stats.decode_s = self._busy + time.perf_counter() - self._resumed if stats.emitted else 0.0
        stats.tokens_per_s = (stats.emitted - 1) / stats.decode_s if stats.decode_s > 0 else 0.0
