"""Several sequences that go through the cycle together, and what the device knows of them."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import mlx.core as mx

from helix_mlx.engine.execution.checkpoints import Checkpoint, Checkpoints
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.paging.paged_cache import PagedKV, commit
from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.drafter import DraftContext
from helix_mlx.speculative.verification.types import Draft, one_hot


class Batch:
    """Running sequences, each row one of them.

    `last_two` [B, 2] int32 holds the tokens at positions n - 1 and n, `positions` [B] int32 holds n; both live
    on the device and may be a cycle ahead of what the host has read. `drafting` are the rows whose draft keys and
    values are in `draft`, in the order of the batch: those that the draft has read up to the last two tokens; where the
    draft is a head of the target, all of them. `hidden` [B, 1, H] are the target's hidden states at n - 1 for it.

    Args:
        sequences: with all but the last token read by the target, each with its own keys and values, which the
            batch takes over.
        checkpoints: says where recurrent states are kept.
    """

    def __init__(self, sequences: Seq[Sequence], checkpoints: Checkpoints) -> None:
        assert sequences
        self._checkpoints = checkpoints
        self.sequences: list[Sequence] = []
        self.drafting: list[int] = []
        self.target: PagedKV
        self.draft: PagedKV | None = None
        self.hidden: mx.array | None = None
        self._take_in(list(sequences), [])

    @property
    def lengths(self) -> list[int]:
        """n of each sequence, as far as the host has read."""
        return [s.length for s in self.sequences]

    def arrange(self, sequences: Seq[Sequence], ready: Seq[Sequence]) -> None:
        """Go on with these sequences, of which `ready` are those that the draft may be asked for.

        Who leaves loses its keys and values; who stops drafting gets those of the draft back. The device is idle.
        """
        assert sequences
        rows = {id(sequence): row for row, sequence in enumerate(self.sequences)}
        staying = [rows[id(s)] for s in sequences if id(s) in rows]
        joining = [s for s in sequences if id(s) not in rows]
        if joining or len(staying) < len(self.sequences):
            self._give_back_drafts()
            self._take_in(joining, staying)
        wanted = {id(s) for s in ready}
        if [id(self.sequences[row]) for row in self.drafting] != [id(s) for s in self.sequences if id(s) in wanted]:
            self._give_back_drafts()
            self._join_drafts(wanted)

    def has_full_page(self) -> bool:
        """Whether a page is full: position n - 1 stays in the tail, where the draft may still have to write it."""
        target, draft = self._verified()
        return self.target.has_full_page(target) or (self.draft is not None and self.draft.has_full_page(draft))

    def commit(self) -> None:
        """Move full pages of both models to the pool; the device has to be idle.

        Raises:
            MemoryBudgetError: no page is free.
        """
        target, draft = self._verified()
        if self.draft is None:
            commit([self.target], [target])
        else:
            commit([self.target, self.draft], [target, draft])

    def _verified(self) -> tuple[list[int], list[int]]:
        """Positions that may be committed, of each sequence, and of each that drafts."""
        target = [s.length if s.finished else s.length - 1 for s in self.sequences]
        return target, [min(target[row], self.sequences[row].kv.draft_length) for row in self.drafting]

    def advance(self, accepted: mx.array, counts: Seq[int], read: int, ahead: int | None) -> list[Checkpoint]:
        """Let recurrent states follow the verdict, on the device.

        Args:
            accepted: [B] int32, how many drafts were kept.
            counts: K of each sequence.
            read: known tokens that the draft model has read in this cycle, the last one among them; 0 where it was not
                asked.
            ahead: tokens that each sequence is ahead of what the host has read; None where the host cannot know.

        Returns:
            The states at page boundaries that some sequences may have passed.
        """
        found = []
        if self.target.states is not None:
            starts = None if ahead is None else [s.length + ahead for s in self.sequences]
            rows = range(len(self.sequences))
            found += self._advance(self.target, rows, accepted + 1, starts, [count + 1 for count in counts])
        if read and self.draft is not None and self.draft.states is not None:
            # All of those but the last, and as many drafts as were kept, less the last one: it is read again.
            everyone = len(self.drafting) == len(self.sequences)
            kept = (accepted if everyone else accepted[mx.array(self.drafting)]) + (read - 1)
            starts = None if ahead is None else [self.sequences[row].length + ahead - read + 1 for row in self.drafting]
            most = [counts[row] + read - 1 for row in self.drafting]
            found += self._advance(self.draft, self.drafting, kept, starts, most)
        return found

    def _advance(
        self, kv: PagedKV, rows: Seq[int], kept: mx.array, starts: list[int] | None, most: list[int]
    ) -> list[Checkpoint]:
        ends = [0] * len(most) if starts is None else self._checkpoints.boundaries(kv, starts, most)
        if starts is None or not any(ends):
            kv.advance(kept)
            return []
        limits = mx.array([max(0, end - start) for end, start in zip(ends, starts, strict=True)], mx.int32)
        states = kv.advance(kept, limits)
        assert states is not None
        return [
            Checkpoint(kv.model, {row: (place, ends[place]) for place, row in enumerate(rows) if ends[place]}, states)
        ]

    def asked(self, counts: Seq[int], proposed: dict[int, list[int]]) -> list[int]:
        """The rows whose draft model is asked in a cycle.

        Args:
            counts: K of each sequence.
            proposed: the drafts of token drafters, by row.
        """
        return [row for row in self.drafting if counts[row] and row not in proposed]

    def follow(
        self, head: MTPHead, hidden: mx.array, tokens: mx.array, accepted: mx.array, bounds: tuple[int, bool]
    ) -> None:
        """Let a head read what the target has read in a cycle, with the hidden states that this gave.

        Rows that were not kept are written, too, and overwritten like those of the target.

        Args:
            hidden: [B, K + 1, H], at positions n and on.
            tokens: [B, K + 1] int32, at n + 1 and on: the drafts that were kept, the next token, and filling.
            accepted: [B] int32.
            bounds: of the pass: `limit` and `exact`, as in `PagedKV.caches`.
        """
        assert self.draft is not None
        assert len(self.drafting) == len(self.sequences)
        # Nobody looks at what comes out, so this is two norms and projections: no attention is computed.
        head(tokens, hidden, self.draft.caches(self.positions, *bounds))
        self.hidden = mx.take_along_axis(hidden, accepted[:, None, None], axis=1)

    def draft_context(self, in_flight: int) -> DraftContext:
        """What the drafter sees: the sequences that draft.

        Args:
            in_flight: tokens a sequence may be ahead of what the host has read.
        """
        lengths = [self.sequences[row].length for row in self.drafting]
        limit, exact = max(lengths) + in_flight, in_flight == 0 and min(lengths) == max(lengths)
        last = self._last_of_one() if len(lengths) == 1 and not in_flight else None
        if len(self.drafting) == len(self.sequences):
            return DraftContext(
                self.last_two if last is None else last,
                self.positions,
                limit,
                exact,
                self.filters,
                self.seeds,
                self.rules,
                self.draft,
                self.hidden,
            )
        rows = mx.array(self.drafting, mx.int32)
        return DraftContext(
            self.last_two[rows] if last is None else last,
            self.positions[rows],
            limit,
            exact,
            self.filters.take(self.drafting),
            self.seeds[rows],
            [self.rules[row] for row in self.drafting],
            self.draft,
        )

    def _last_of_one(self) -> mx.array:
        """The last tokens of the one sequence that drafts: two, and those that its draft has missed before them."""
        sequence = self.sequences[self.drafting[0]]
        width = 2 + sequence.draft_lag
        return self.last_two[self.drafting[0]][None] if width == 2 else mx.array([sequence.tokens[-width:]], mx.int32)

    def spread(self, draft: Draft | None, proposed: dict[int, list[int]], count: int, vocab_size: int) -> Draft:
        """All drafts at their rows of the batch; rows without any are filled with anything.

        Args:
            draft: of those that ask the draft model; None where nobody does.
            proposed: K tokens or fewer of token drafters, by row.
            count: K, the drafts of each row.
            vocab_size: of the target.
        """
        if draft is not None and len(self.drafting) == len(self.sequences) and not proposed:
            return draft
        drafted = [*self.drafting, *proposed] if draft else list(proposed)
        places = {row: place for place, row in enumerate(drafted)}
        if proposed:
            tokens = mx.array([row + [0] * (count - len(row)) for row in proposed.values()], mx.int32)
            if draft is None:
                draft = Draft(tokens, None)
            else:
                probs = None if draft.probs is None else mx.concatenate([draft.probs, one_hot(tokens, vocab_size)])
                draft = Draft(mx.concatenate([draft.tokens, tokens]), probs)
        assert draft is not None
        return draft.take(mx.array([places.get(row, 0) for row in range(len(self.sequences))], mx.int32))

    def _take_in(self, joining: list[Sequence], staying: list[int]) -> None:
        """Rebuild the rows: those staying, then those joining. The host knows where everybody is."""
        parts = [self.target.take(staying)] if staying else []
        for sequence in joining:
            assert sequence.kv.target is not None
            parts.append(sequence.kv.target)
            sequence.kv.target = None
        self.target = PagedKV.concatenate(parts)
        states = [] if self.hidden is None or not staying else [self.hidden[mx.array(staying)]]
        states += [sequence.kv.hidden for sequence in joining if sequence.kv.hidden is not None]
        self.hidden = mx.concatenate(states) if states else None
        for sequence in joining:
            sequence.kv.hidden = None
        self.sequences = [self.sequences[row] for row in staying] + joining
        # A prompt of one token has nothing before it: position -1 is never kept, so any token stands in.
        self.last_two = mx.array([(s.tokens[-2:] * 2)[-2:] for s in self.sequences], mx.int32)
        self.positions = mx.array([s.length for s in self.sequences], mx.int32)
        self.filters = Filters.of([s.params for s in self.sequences])
        self.seeds = mx.array([s.seed for s in self.sequences], mx.uint32)
        self.rules = [s.params.rule for s in self.sequences]

    def _give_back_drafts(self) -> None:
        if self.draft is None:
            return
        for place, row in enumerate(self.drafting):
            self.sequences[row].kv.draft = self.draft.take([place])
        self.draft, self.drafting = None, []

    def _join_drafts(self, wanted: set[int]) -> None:
        self.drafting = [row for row, sequence in enumerate(self.sequences) if id(sequence) in wanted]
        parts = []
        for row in self.drafting:
            kv = self.sequences[row].kv.draft
            assert kv is not None
            parts.append(kv)
            self.sequences[row].kv.draft = None
        self.draft = PagedKV.concatenate(parts) if parts else None
