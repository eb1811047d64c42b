"""Where recurrent states are kept for the prefix cache: at the end of a prompt, along a long one, and behind an answer.

A snapshot lies at a page boundary. A prompt is read in pieces that end there; a cycle that may pass a boundary works
out the state at it besides, from the rows that it has recorded.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.paging.page_pool import PagePool
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.recurrent.states import RecurrentStates

PIECES = 4
"""Snapshots along one prompt take at most one part in so many of those that there is room for."""
LEAST_PIECE = 32
"""Pages between two snapshots along a prompt, at least."""


@dataclass(frozen=True)
class Checkpoint:
    """States that a cycle has worked out at page boundaries, for those of its rows that may have got there.

    Args:
        model: TARGET or DRAFT.
        places: for some sequences their row in `states` and the boundary.
        states: of all rows.
    """

    model: int
    places: dict[int, tuple[int, int]]
    states: RecurrentStates


class Checkpoints:
    """Decides where states are kept, and hands them to the prefix cache.

    Args:
        pool: knows the states of each model.
        cache: keeps them.
    """

    def __init__(self, pool: PagePool, cache: PrefixCache) -> None:
        self._pool = pool
        self._cache = cache

    def wanted(self, model: int) -> bool:
        """Whether a model has states, and there is room for some."""
        if model >= len(self._pool.layouts):
            return False
        size = self._pool.layouts[model].state_bytes
        return self._cache.enabled and 0 < size <= self._cache.snapshots.nbytes_most

    def along(self, length: int, known: int) -> list[int]:
        """The boundaries at which the states of a prompt are kept.

        Args:
            length: tokens that will be read before the first cycle.
            known: pages that others have read alike: where texts part, more will.
        """
        size, snapshots = self._pool.page_size, self._cache.snapshots
        pages = length // size
        parts = max(1, snapshots.nbytes_most // self._pool.state_bytes // PIECES)
        step = max(LEAST_PIECE, -(-pages // parts))
        # The draft reads the last two tokens in its first cycle, so its last boundary may be another one.
        ends = {*range(step, pages + 1, step), known, pages, max(0, length - 1) // size}
        return sorted(end * size for end in ends if end)

    def pieces(self, model: int, sequence: Sequence, start: int, end: int) -> list[int]:
        """Where the passes that read a stretch of tokens end: at each boundary that is wanted, and at its end."""
        if not self.wanted(model):
            return [end]
        return [*(p for p in sequence.kv.boundaries if start < p < end), end]

    def keep(self, model: int, sequence: Sequence, kv: PagedKV, position: int) -> None:
        """Keep the states of one sequence behind `position` tokens, where that is a boundary."""
        if self.wanted(model) and position % self._pool.page_size == 0 and kv.states is not None:
            sequence.kv.checkpoints[model] = position, kv.states.copy()
            self.commit(sequence)  # its page may still be in the tail

    def boundaries(self, kv: PagedKV, starts: Seq[int], most: Seq[int]) -> list[int]:
        """The boundary that each row of a cycle may reach; 0 where it reaches none.

        Args:
            kv: of the model that reads.
            starts: positions that the states are of.
            most: rows that may be kept at most.
        """
        size = self._pool.page_size
        ends = [(start // size + 1) * size for start in starts]
        reached = [end if start + rows >= end else 0 for start, rows, end in zip(starts, most, ends, strict=True)]
        return reached if self.wanted(kv.model) else [0] * len(reached)

    def note(self, checkpoint: Checkpoint, row: int, sequence: Sequence, position: int) -> None:
        """A cycle has been read: its checkpoint counts where the sequence has got that far.

        Args:
            row: the sequence's in the cycle.
            position: verified positions of the model's.
        """
        place, boundary = checkpoint.places.get(row, (0, 0))
        if 0 < boundary <= position:
            states = checkpoint.states.take([place])
            mx.async_eval(states.arrays)
            sequence.kv.checkpoints[checkpoint.model] = boundary, states

    def commit(self, sequence: Sequence) -> None:
        """Keep what a sequence has noted, as far as its pages are known; the one before it on the way is forgotten."""
        for model, (boundary, states) in list(sequence.kv.checkpoints.items()):
            if len(sequence.kv.table.digests) * self._pool.page_size >= boundary:
                del sequence.kv.checkpoints[model]
                self._put(model, sequence, boundary, states)

    def _put(self, model: int, sequence: Sequence, position: int, states: RecurrentStates) -> None:
        digest = sequence.kv.table.digests[position // self._pool.page_size - 1]
        before = sequence.kv.newest_snapshot.pop(model, None)
        if before is not None and before != digest:
            self._cache.snapshots.drop(model, before)
        if self._cache.snapshots.put(model, digest, states) and position > sequence.prompt_tokens:
            sequence.kv.newest_snapshot[model] = digest
