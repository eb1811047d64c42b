"""Begins sequences: from what the prefix cache holds, by fork, and by reading what is known of their tokens."""

from __future__ import annotations

import time

from helix_mlx.engine.execution.checkpoints import Checkpoints
from helix_mlx.engine.execution.cycle import Models, prefill_chunk, tail_slots
from helix_mlx.engine.metrics import Counters
from helix_mlx.engine.scheduling.sequence import DRAFT_GAP, Sequence
from helix_mlx.paging.page_pool import DRAFT, TARGET, PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.paging.prefix_cache import PrefixCache


class Prefill:
    """What a sequence needs before its first cycle, and its draft before the first one that asks it.

    Args:
        models: target and draft.
        pool: their pages.
        cache: the prefix cache over them.
        checkpoints: keep recurrent states for it.
        lookahead: as the runner's.
        count: is told what was read.
    """

    def __init__(
        self,
        models: Models,
        pool: PagePool,
        cache: PrefixCache,
        checkpoints: Checkpoints,
        lookahead: int | None,
        count: Counters,
    ) -> None:
        self._models = models
        self._pool = pool
        self._cache = cache
        self._checkpoints = checkpoints
        self._slots = tail_slots(pool.page_size, lookahead)
        self._count = count

    def pages_needed(self, sequence: Sequence) -> int:
        """Pages that a waiting sequence would take from those that can be had, to hold the tokens known now."""
        found = self._cache.match(sequence.tokens[: sequence.length]).pages
        shared = sum(self._pool.allocator.ref_count(page) > 0 for page in found)
        return sequence.length // self._pool.page_size - shared

    def pages_returned(self, sequence: Sequence) -> int:
        """Pages that can be had once a running sequence has let go."""
        return sum(self._pool.allocator.ref_count(page) == 1 for page in sequence.kv.table.pages)

    def begin(self, sequence: Sequence) -> None:
        """Begin with what the prefix cache holds of the sequence's tokens."""
        size = self._pool.page_size
        found = self._cache.match(sequence.tokens[: sequence.length])
        if self._checkpoints.wanted(TARGET) or self._checkpoints.wanted(DRAFT):
            sequence.kv.boundaries = self._checkpoints.along(sequence.length, found.known)
        kv, hit_tokens = sequence.kv, len(found.pages) * size
        kv.table.adopt(found.pages, found.digests)
        kv.target = PagedKV.empty(self._pool, TARGET, kv.table, self._slots)
        kv.target.found(len(found.pages))
        if found.pages and kv.target.states is not None:
            kv.target.states = self._cache.snapshots.get(TARGET, found.digests[-1])
        kv.target_length = kv.prefill_start = hit_tokens
        sequence.stats.prefix_hit_tokens += hit_tokens
        self._count.prefix_hit_tokens += hit_tokens
        self._begin_draft(sequence)
        if not sequence.times.began:
            sequence.times.began = time.perf_counter()

    def fork(self, sequence: Sequence, copy: Sequence) -> None:
        """Begin a copy with the pages and the tail of a sequence that has read the prompt of both."""
        assert sequence.kv.target is not None
        copy.kv.table = sequence.kv.table.fork()
        copy.kv.target = sequence.kv.target.fork(copy.kv.table)
        copy.kv.target_length = copy.kv.prefill_start = sequence.kv.target_length
        copy.stats.prefix_hit_tokens = sequence.kv.target_length
        copy.times.began = time.perf_counter()
        self._begin_draft(copy)

    def read_target(self, sequence: Sequence, count: int) -> None:
        """The target reads the next tokens of one sequence."""
        kv, start = sequence.kv.target, sequence.kv.target_length
        assert kv is not None
        for end in self._checkpoints.pieces(TARGET, sequence, start, start + count):
            prefill_chunk(self._models.target, kv, sequence.tokens[start:end], start)
            sequence.kv.target_length = start = end
            self._cache.add(sequence.kv.table, sequence.tokens, kv.committed[0] // self._pool.page_size)
            self._checkpoints.keep(TARGET, sequence, kv, end)
        sequence.stats.prefill_tokens += count
        self._count.prefill_tokens += count
        if not sequence.emitted_count:
            sequence.stats.prefill_s = time.perf_counter() - sequence.times.began
        if sequence.progress is not None:
            start = sequence.kv.prefill_start
            sequence.progress(sequence.kv.target_length - start, sequence.length - start)

    def read_draft(self, sequence: Sequence, count: int) -> None:
        """The draft reads the next tokens of one sequence, all but the last two at most."""
        assert self._models.draft is not None
        # Who has something to read has left the batch's draft after the cycle that it was not asked in.
        assert sequence.kv.draft is not None
        self._find_drafted(sequence)
        start, stop = sequence.kv.draft_length, min(sequence.kv.draft_length + count, sequence.length - 1)
        if start >= stop:
            return
        self._count.draft_prefill_tokens += stop - start
        for end in self._checkpoints.pieces(DRAFT, sequence, start, stop):
            prefill_chunk(self._models.draft, sequence.kv.draft, sequence.tokens[start:end], start)
            sequence.kv.draft_length = start = end
            self._checkpoints.keep(DRAFT, sequence, sequence.kv.draft, end)

    def _begin_draft(self, sequence: Sequence) -> None:
        if sequence.drafting.can_use_model:
            sequence.kv.draft = PagedKV.empty(self._pool, DRAFT, sequence.kv.table, self._slots + DRAFT_GAP)
            self._find_drafted(sequence)

    def _find_drafted(self, sequence: Sequence) -> None:
        """Go past pages that the draft has read already, for this sequence or for another that shares them."""
        size, kv = self._pool.page_size, sequence.kv.draft
        assert kv is not None
        pages = kv.committed[0] // size
        # The draft reads the last two tokens again, so the page of the first of them stays out.
        most = min(len(sequence.kv.table.pages), max(0, sequence.length - 1) // size)
        while pages < most and sequence.kv.table.pages[pages] in self._pool.allocator.drafted:
            pages += 1
        if kv.states is not None:
            pages = self._cache.snapshots.deepest(DRAFT, sequence.kv.table.digests[:pages])
        if pages * size > sequence.kv.draft_length:
            if kv.states is not None:
                kv.states = self._cache.snapshots.get(DRAFT, sequence.kv.table.digests[pages - 1])
            kv.found(pages)
            sequence.kv.draft_length = pages * size
