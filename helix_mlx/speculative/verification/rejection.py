"""What the token rule and the block rule share: how drafts are drawn, and what follows the last one kept.

Notation: p is the target's and q the draft's filtered probability. Both rules stay exact because the draft, the
acceptance and the residual use random numbers of their own, fresh every cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.sampling.draw import draw
from helix_mlx.sampling.filters import filtered_probs
from helix_mlx.sampling.noise import Purpose, uniform
from helix_mlx.speculative.verification.greedy import all_finite
from helix_mlx.speculative.verification.types import DraftStep, Rows, one_hot

_LARGEST = 3e38
"""Bounds p / q, which is infinite where q is tiny: 0 times it has to be 0."""


@dataclass(frozen=True, eq=False)
class Cycle:
    """A cycle in probabilities, with its random numbers.

    Args:
        target_probs: [B, K + 1, V] float32.
        draft_probs: [B, K, V] float32.
        draft_tokens: [B, K] int32.
        accept_numbers: [B, K] float32, uniform.
        next_numbers: [B, 2] float32, uniform.
    """

    target_probs: mx.array
    draft_probs: mx.array
    draft_tokens: mx.array
    accept_numbers: mx.array
    next_numbers: mx.array


def propose(step: DraftStep) -> tuple[mx.array, mx.array | None]:
    """A draw from the draft's filtered probabilities, with noise that the target never sees."""
    probs = filtered_probs(step.draft_logits[:, None], step.filters)[:, 0]
    numbers = uniform(step.seeds, step.positions, [(Purpose.DRAFT, step.index)])
    return draw(probs, numbers[:, 0]), probs


def prepare(rows: Rows) -> Cycle:
    """Filter the target's logits and draw the cycle's random numbers; K may be 0."""
    target_probs = filtered_probs(rows.target_logits, rows.filters)
    batch, count, vocab = target_probs.shape[0], target_probs.shape[1] - 1, target_probs.shape[2]
    draws = [(Purpose.ACCEPT, index) for index in range(1, count + 1)] + [(Purpose.RESIDUAL, 0)]
    numbers = uniform(rows.seeds, rows.positions, draws)
    if rows.draft is None:
        tokens, draft_probs = mx.zeros((batch, 0), mx.int32), mx.zeros((batch, 0, vocab))
    else:
        tokens = rows.draft.tokens
        draft_probs = one_hot(tokens, vocab) if rows.draft.probs is None else rows.draft.probs
    return Cycle(target_probs, draft_probs, tokens, numbers[:, :count, 0], numbers[:, count])


def ratios(target_probs: mx.array, draft_probs: mx.array, draft_tokens: mx.array) -> mx.array:
    """p(x) / q(x) of each draft x, [B, K] float32, finite; 0 where q(x) is 0, which no honest draft proposes.

    Args:
        target_probs: [B, K + 1, V] float32.
        draft_probs: [B, K, V] float32.
        draft_tokens: [B, K] int32.
    """
    tokens = draft_tokens[..., None]
    target_at = mx.take_along_axis(target_probs[:, : draft_tokens.shape[1]], tokens, axis=-1)[..., 0]
    draft_at = mx.take_along_axis(draft_probs, tokens, axis=-1)[..., 0]
    return mx.where(draft_at > 0, mx.minimum(target_at / draft_at, _LARGEST), 0.0)


def residual_probs(target_probs: mx.array, draft_probs: mx.array, weights: mx.array) -> mx.array:
    """norm(max(weight * p - q, 0)): what a token is drawn from where the draft was not kept.

    Args:
        target_probs, draft_probs: [..., V] float32; q is all 0 after the last draft, where the residual is p.
        weights: [...] float32, the block rule's p_tau; 1 in the token rule.

    Returns:
        [..., V] float32. Where nothing is left, p and q being equal up to rounding, it is p.
    """
    left = mx.maximum(weights[..., None] * target_probs - draft_probs, 0.0)
    total = mx.sum(left, axis=-1, keepdims=True)
    return mx.where(total > 0, left / total, target_probs)


def next_token(cycle: Cycle, accepted: mx.array, weights: mx.array) -> mx.array:
    """Draw the token after the drafts that are kept.

    Args:
        cycle: the cycle.
        accepted: [B] int32, from 0 to K.
        weights: [B, K + 1] float32, as in `residual_probs`, for each number of drafts kept.

    Returns:
        [B] int32.
    """
    batch = mx.arange(accepted.shape[0])
    target_row = cycle.target_probs[batch, accepted]
    count = cycle.draft_tokens.shape[1]
    if count == 0:
        return draw(target_row, cycle.next_numbers)
    draft_row = cycle.draft_probs[batch, mx.minimum(accepted, count - 1)] * (accepted < count)[:, None]
    return draw(residual_probs(target_row, draft_row, weights[batch, accepted]), cycle.next_numbers)


def finite(cycle: Cycle, accepted: mx.array) -> mx.array:
    """See `Verdict`: one logit that is no number leaves no probability of its row a number."""
    return all_finite(mx.isfinite(cycle.target_probs[:, :, 0]), accepted)
