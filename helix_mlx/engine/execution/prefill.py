"""Begins sequences: from what the prefix cache holds, by fork, and by reading what is known of their tokens."""

from __future__ import annotations

import time

from helix_mlx.engine.execution.checkpoints import Checkpoints
from helix_mlx.engine.execution.cycle import Models, prefill_chunk, prefill_with_head, tail_slots
from helix_mlx.engine.metrics import Counters
from helix_mlx.engine.scheduling.sequence import DRAFT_GAP, Sequence
from helix_mlx.paging.page_pool import DRAFT, TARGET, PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.paging.prefix_cache import Match, PrefixCache


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
        found = self._match(sequence)
        shared = sum(self._pool.allocator.ref_count(page) > 0 for page in found.pages)
        return sequence.length // self._pool.page_size - shared

    def pages_returned(self, sequence: Sequence) -> int:
        """Pages that can be had once a running sequence has let go."""
        return sum(self._pool.allocator.ref_count(page) == 1 for page in sequence.kv.table.pages)

    def begin(self, sequence: Sequence) -> None:
        """Begin with what the prefix cache holds of the sequence's tokens."""
        size = self._pool.page_size
        found = self._match(sequence)
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
        if self._models.head is None:
            self._begin_draft(copy)
            return
        assert sequence.kv.draft is not None
        copy.kv.draft = sequence.kv.draft.fork(copy.kv.table)
        copy.kv.draft_length = sequence.kv.draft_length
        copy.kv.hidden, copy.kv.hidden_known = sequence.kv.hidden, sequence.kv.hidden_known

    def read_target(self, sequence: Sequence, count: int) -> None:
        """The target reads the next tokens of one sequence."""
        kv, start = sequence.kv.target, sequence.kv.target_length
        assert kv is not None
        for end in self._checkpoints.pieces(TARGET, sequence, start, start + count):
            if self._models.head is None:
                prefill_chunk(self._models.target, kv, sequence.tokens[start:end], start)
            else:
                self._read_with_head(sequence, kv, start, end)
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

    def _read_with_head(self, sequence: Sequence, kv: PagedKV, start: int, end: int) -> None:
        assert self._models.head is not None
        assert sequence.kv.draft is not None
        # Who comes back may draft at once, which writes the last position again: its page stays in the tail.
        most = sequence.length - 1 if sequence.emitted_count else end
        known = sequence.tokens[start : end + 1]
        sequence.kv.hidden = prefill_with_head(self._models.head, [kv, sequence.kv.draft], known, start, most)
        sequence.kv.hidden_known = True
        sequence.kv.draft_length = end

    def _match(self, sequence: Sequence) -> Match:
        """What the prefix cache has of a sequence's tokens; with a head, as far as both have read it."""
        found = self._cache.match(sequence.tokens[: sequence.length])
        if self._models.head is None:
            return found
        drafted = self._pool.allocator.drafted
        count = next((n for n, page in enumerate(found.pages) if page not in drafted), len(found.pages))
        if count < len(found.pages) and self._pool.layouts[TARGET].states:
            count = self._cache.snapshots.deepest(TARGET, found.digests[:count])
        return Match(found.pages[:count], found.digests[:count], found.known)

    def _begin_draft(self, sequence: Sequence) -> None:
        if self._models.head is not None:
            kv = sequence.kv
            kv.draft = PagedKV.empty(self._pool, DRAFT, kv.table, self._slots)
            kv.draft.found(len(kv.table.pages))
            kv.draft_length, kv.hidden = kv.target_length, self._models.head.no_hidden()
            return
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
