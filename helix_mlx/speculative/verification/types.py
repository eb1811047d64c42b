"""What goes into a verification rule and what comes out; all arrays stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from helix_mlx.sampling.filters import Filters


@dataclass(frozen=True, eq=False)
class Draft:
    """K >= 1 proposed tokens a sequence, and the probabilities they were drawn from.

    Args:
        tokens: [B, K] int32.
        probs: [B, K, V] float32, each row given the drafts before it; None for a deterministic drafter, whose
            probabilities are one-hot.
    """

    tokens: mx.array
    probs: mx.array | None

    def take(self, rows: mx.array) -> Draft:
        """The drafts of some of the sequences; rows is an int32 array."""
        return Draft(self.tokens[rows], None if self.probs is None else self.probs[rows])


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of a cycle.

    Args:
        accepted: [B] int32 from 0 to K, how many drafts each sequence keeps.
        next_token: [B] int32, the token that follows them.
        finite: [B] bool, whether the target's logits that decided it were numbers; where not, it means nothing.
    """

    accepted: mx.array
    next_token: mx.array
    finite: mx.array


@dataclass(frozen=True, eq=False)
class Rows:
    """One cycle, to be verified.

    The last known token is at position n. Draft i = 1..K is at n + i. Target row j = 0..K read the token at
    n + j and predicts the one at n + 1 + j.

    Args:
        target_logits: [B, K + 1, V], as the model gave them.
        draft: the K drafts, or None where K is 0.
        filters: of the B sequences.
        seeds: [B] uint32, folded.
        positions: [B] int32, n.
    """

    target_logits: mx.array
    draft: Draft | None
    filters: Filters
    seeds: mx.array
    positions: mx.array

    def take(self, rows: Sequence[int]) -> Rows:
        """Some of the sequences, in the order named."""
        index = mx.array(list(rows), mx.int32)
        draft = None if self.draft is None else self.draft.take(index)
        return Rows(self.target_logits[index], draft, self.filters.take(rows), self.seeds[index], self.positions[index])

    def cut(self, count: int) -> Rows:
        """The same cycle with the first `count` drafts alone."""
        if self.target_logits.shape[1] == count + 1:
            return self
        draft = None
        if count:
            assert self.draft is not None
            probs = self.draft.probs
            draft = Draft(self.draft.tokens[:, :count], None if probs is None else probs[:, :count])
        return replace(self, target_logits=self.target_logits[:, : count + 1], draft=draft)


@dataclass(frozen=True, eq=False)
class DraftStep:
    """The draft model's answer for one draft of a cycle.

    Args:
        draft_logits: [B, V], as the model gave them.
        index: i = 1..K, which draft of the cycle this is.
        filters, seeds, positions: as in `Rows`; positions is n, not the draft's own position.
    """

    draft_logits: mx.array
    index: int
    filters: Filters
    seeds: mx.array
    positions: mx.array

    def take(self, rows: Sequence[int]) -> DraftStep:
        """Some of the sequences, in the order named."""
        index = mx.array(list(rows), mx.int32)
        return DraftStep(
            self.draft_logits[index], self.index, self.filters.take(rows), self.seeds[index], self.positions[index]
        )


@dataclass(frozen=True)
class Rule:
    """A verification rule: how a draft has to be drawn for it, and how it decides.

    Args:
        propose: gives the token, [B] int32, and its probabilities, [B, V] float32 or None for one-hot.
        verify: decides a cycle.
    """

    propose: Callable[[DraftStep], tuple[mx.array, mx.array | None]]
    verify: Callable[[Rows], Verdict]


def one_hot(tokens: mx.array, vocab: int) -> mx.array:
    """Probabilities of a choice without chance: tokens [...] give [..., V] float32."""
    return (tokens[..., None] == mx.arange(vocab)).astype(mx.float32)
