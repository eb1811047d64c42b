"""Several sequences that go through the cycle together, and what the device knows of them."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import mlx.core as mx

from helix_mlx.engine.sequence import Sequence
from helix_mlx.paging.paged_cache import PagedKV, commit
from helix_mlx.sampling.filters import Filters


class Batch:
    """Running sequences, each row one of them.

    `last_two` [B, 2] int32 holds the tokens at positions n - 1 and n, `positions` [B] int32 holds n; both live
    on the device and may be a cycle ahead of what the host has read.

    Args:
        sequences: with all but the last token read by the target.
    """

    def __init__(self, sequences: Seq[Sequence]) -> None:
        assert sequences
        self.sequences = list(sequences)
        self.target = PagedKV.concatenate([s.target for s in sequences])
        self.draft: PagedKV | None = None
        # A prompt of one token has nothing before it: position -1 is never kept, so any token stands in.
        self.last_two = mx.array([(s.tokens[-2:] * 2)[-2:] for s in sequences], mx.int32)
        self.positions = mx.array([s.length for s in sequences], mx.int32)
        self._settings()

    def _settings(self) -> None:
        self.filters = Filters.of([s.params for s in self.sequences])
        self.seeds = mx.array([s.seed for s in self.sequences], mx.uint32)
        self.rules = [s.params.rule for s in self.sequences]

    @property
    def lengths(self) -> list[int]:
        """n of each sequence, as far as the host has read."""
        return [s.length for s in self.sequences]

    def due(self) -> bool:
        """Whether a page is full: position n - 1 stays in the tail, where the draft may still have to write it."""
        return self.target.due([n - 1 for n in self.lengths])

    def commit(self) -> None:
        """Move full pages of both models to the pool; the device has to be idle.

        Raises:
            MemoryBudgetError: no page is free.
        """
        verified = [n - 1 for n in self.lengths]
        if self.draft is None:
            commit([self.target], [verified])
        else:
            drafts = [min(n, s.draft_length) for n, s in zip(verified, self.sequences, strict=True)]
            commit([self.target, self.draft], [verified, drafts])

    def join_draft(self) -> None:
        """Take in the sequences' draft keys and values, once the draft has read what it missed."""
        parts = []
        for sequence in self.sequences:
            assert sequence.draft is not None
            parts.append(sequence.draft)
        self.draft = PagedKV.concatenate(parts)

    def part(self) -> None:
        """Hand the finished sequences their keys and values back, and go on without them."""
        staying = []
        for row, sequence in enumerate(self.sequences):
            if sequence.finish_reason is None:
                staying.append(row)
                continue
            sequence.target = self.target.take([row])
            if self.draft is not None:
                sequence.draft = self.draft.take([row])
        if len(staying) == len(self.sequences):
            return
        self.sequences = [self.sequences[row] for row in staying]
        if staying:
            rows = mx.array(staying)
            self.target = self.target.take(staying)
            self.draft = self.draft.take(staying) if self.draft is not None else None
            self.last_two, self.positions = self.last_two[rows], self.positions[rows]
            self._settings()
