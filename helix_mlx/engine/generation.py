"""From admitted sequences to finished ones: prefill, the first token, then cycles until each has ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
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

    `draft` is the draft model, which `drafter` asks; both are None without a draft. `chunk` is the positions
    of a prefill pass, `lookahead` the cycles enqueued before one is read.
    """

    target: LanguageModel
    draft: LanguageModel | None
    drafter: Drafter | None
    chunk: int
    lookahead: int


class Generation:
    """One group of sequences, from prefill to the end.

    Iterate it for (sequence, chunk) pairs. Closing it, or letting it end, leaves each sequence with its own
    keys and values again and nothing in flight; the pages are the caller's to release.

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
        self._pending: deque[tuple[mx.array, int, list[Sequence]]] = deque()
        self._began = time.perf_counter()

    def run(self) -> Generator[tuple[Sequence, Chunk]]:
        """Generate until every sequence has a finish reason."""
        if not self._prefill():
            for sequence in self._sequences:
                sequence.finish_reason = "cancelled"
                yield sequence, Chunk("")
            return
        batch = Batch(self._sequences)
        try:
            self._enqueue(batch, 0)
            yield from self._read_first(batch)
            yield from self._decode(batch)
        finally:
            self._pending.clear()
            mx.synchronize()
            for sequence in batch.sequences:
                if sequence.finish_reason is None:
                    sequence.finish_reason = "cancelled"
                    self._time(sequence)
            batch.part()

    def _prefill(self) -> bool:
        """The target reads all tokens but the last of each sequence; False where it was cancelled."""
        total = sum(s.length - s.target_length for s in self._sequences)
        before = 0
        for sequence in self._sequences:
            start = sequence.target_length
            missing = sequence.tokens[start : sequence.length]

            def between(done: int, sequence: Sequence = sequence, start: int = start, before: int = before) -> bool:
                sequence.target_length = start + done
                sequence.stats.prefill_tokens = done
                self._progress(before + done, total)
                return not self._cancel()

            prefill(self._runner.target, sequence.target, missing, start, self._runner.chunk, between)
            if sequence.target_length < sequence.length or self._cancel():
                return False
            before += len(missing)
        return True

    def _prefill_draft(self, batch: Batch) -> None:
        """The draft reads what it has not read yet, all but the last two tokens."""
        assert self._runner.draft is not None
        for sequence in batch.sequences:
            assert sequence.draft is not None
            start = sequence.draft_length
            missing = sequence.tokens[start : sequence.length - 1]
            prefill(self._runner.draft, sequence.draft, missing, start, self._runner.chunk)
            sequence.draft_length = max(start, sequence.length - 1)
        batch.join_draft()

    def _read_first(self, batch: Batch) -> Iterator[tuple[Sequence, Chunk]]:
        """The first token of each sequence is a cycle without drafts, which belongs to the prefill."""
        events = self._read(batch)
        elapsed = time.perf_counter() - self._began
        for sequence in batch.sequences:
            sequence.stats.prefill_s = sequence.stats.time_to_first_token_s = elapsed
        yield from events
        self._settle(batch)

    def _decode(self, batch: Batch) -> Iterator[tuple[Sequence, Chunk]]:
        if batch.sequences and self._count:
            self._prefill_draft(batch)
        lookahead = self._runner.lookahead
        draining = False
        while batch.sequences:
            if self._cancel():
                return
            if not draining:
                self._enqueue(batch, self._count)
            if draining or len(self._pending) > lookahead:
                yield from self._read(batch)
                draining = batch.due() or any(s.finish_reason for s in batch.sequences)
            if draining and not self._pending:
                self._settle(batch)
                draining = False

    def _enqueue(self, batch: Batch, count: int) -> None:
        in_flight = sum(ahead + 1 for _, ahead, _ in self._pending)
        packed = cycle(self._runner.target, self._runner.drafter, batch, count, in_flight)
        self._pending.append((packed, count, list(batch.sequences)))

    def _read(self, batch: Batch) -> list[tuple[Sequence, Chunk]]:
        """Wait for the oldest cycle and take its tokens: the one host synchronisation of a cycle."""
        packed, count, sequences = self._pending.popleft()
        rows: Any = packed.tolist()
        events: list[tuple[Sequence, Chunk]] = []
        first = not any(s.stats.emitted for s in sequences)
        for sequence, (kept, *tokens) in zip(sequences, rows, strict=True):
            if sequence.finish_reason:
                continue
            events += [(sequence, chunk) for chunk in sequence.accept(tokens[: kept + 1], count)]
            stats = sequence.stats
            stats.host_syncs += 1
            if not first:
                stats.target_passes += 1
                stats.draft_passes += count
            sequence.target_length = sequence.length
            if count:
                sequence.draft_length = sequence.length - 1
            if sequence.finish_reason:
                self._time(sequence)
        return events

    def _time(self, sequence: Sequence) -> None:
        """Note how long an answer took, once it has ended."""
        stats = sequence.stats
        stats.decode_s = time.perf_counter() - self._began - stats.time_to_first_token_s
        stats.tokens_per_s = (stats.emitted - 1) / stats.decode_s if stats.emitted > 1 else 0.0

    def _settle(self, batch: Batch) -> None:
        """With nothing in flight: let finished sequences go and commit full pages."""
        if any(s.finish_reason for s in batch.sequences):
            batch.part()
        if batch.sequences and batch.due():
            batch.commit()
