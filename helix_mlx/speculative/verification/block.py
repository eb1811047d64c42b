"""Block verification (Sun and others 2024, arXiv 2403.10444): the drafts are judged together.

With p_0 = 1 and, for i = 1..K, p_i = min(p_{i-1} p(x_i) / q(x_i), 1):

    Z_i = sum over x of max(p_i p(x | x_1..x_i) - q(x | x_1..x_i), 0),   h_i = Z_i / (Z_i + 1 - p_i),   h_K = p_K

Each i passes with probability h_i, and tau is the LARGEST i that passes: a draft that fails is kept where a later
one passes. The next token is drawn from norm(max(p_tau p - q, 0)), or from p where tau = K. It keeps at least as
many drafts as the token rule, and the text has the same distribution.
"""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.speculative.verification.rejection import finite, next_token, prepare, ratios
from helix_mlx.speculative.verification.types import Rows, Verdict


def verify(rows: Rows) -> Verdict:
    """Keep the drafts up to the last that passes."""
    cycle = prepare(rows)
    weights = prefix_weights(ratios(cycle.target_probs, cycle.draft_probs, cycle.draft_tokens))
    probs = acceptance_probs(cycle.target_probs, cycle.draft_probs, weights)
    accepted = last_passing(cycle.accept_numbers < probs)
    return Verdict(accepted, next_token(cycle, accepted, weights), finite(cycle, accepted))


def prefix_weights(target_over_draft: mx.array) -> mx.array:
    """p_0..p_K: the ratios p(x) / q(x) [B, K] give [B, K + 1] float32, from 0 to 1."""
    weight = mx.ones((target_over_draft.shape[0], 1))
    weights = [weight]
    for index in range(target_over_draft.shape[1]):
        weight = mx.minimum(weight * target_over_draft[:, index : index + 1], 1.0)
        weights.append(weight)
    return mx.concatenate(weights, axis=1)


def acceptance_probs(target_probs: mx.array, draft_probs: mx.array, weights: mx.array) -> mx.array:
    """h_1..h_K.

    Args:
        target_probs: [B, K + 1, V] float32.
        draft_probs: [B, K, V] float32.
        weights: [B, K + 1] float32, p_0..p_K.

    Returns:
        [B, K] float32, from 0 to 1.
    """
    count = draft_probs.shape[1]
    if count < 2:
        return weights[:, 1:]
    inner = weights[:, 1:count]
    left = mx.maximum(inner[..., None] * target_probs[:, 1:count] - draft_probs[:, 1:], 0.0)
    surplus = mx.sum(left, axis=-1)
    total = surplus + (1.0 - inner)
    # 0 / 0 is p_i = 1 with p and q equal from here on: nothing speaks against the prefix. A draft model whose
    # logits are no numbers leaves NaN here, and nothing of it passes.
    passing = mx.where(total > 0, surplus / total, total == 0)
    return mx.concatenate([passing, weights[:, count:]], axis=1)


def last_passing(passes: mx.array) -> mx.array:
    """tau, the largest i that passes, 0 where none does: [B, K] bool -> [B] int32."""
    batch, count = passes.shape
    if count == 0:
        return mx.zeros((batch,), mx.int32)
    return mx.max(mx.where(passes, mx.arange(1, count + 1), 0), axis=1)
