"""Gumbel coupling (Daliri and others 2024, arXiv 2408.07978): draft and target share the noise of each position.

The token at a position is argmax(log p + noise of that position): a function of the seed and of the text before
it. The draft makes the same choice with its own q, and is right where the two agree. So the text is the same with
any draft, any K, in any batch.
"""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.sampling.filters import filtered_logits
from helix_mlx.sampling.noise import gumbel
from helix_mlx.speculative.verification.greedy import chosen, keep_equal
from helix_mlx.speculative.verification.types import DraftStep, Rows, Verdict


def propose(step: DraftStep) -> tuple[mx.array, mx.array | None]:
    """The token the target would choose if its probabilities were the draft's."""
    logits = filtered_logits(step.draft_logits[:, None], step.filters)
    token, _ = choose(logits, step.seeds, step.positions[:, None] + step.index)
    return token[:, 0], mx.softmax(logits[:, 0], axis=-1)


def verify(rows: Rows) -> Verdict:
    """Compare the drafts with the target's choices."""
    logits = filtered_logits(rows.target_logits, rows.filters)
    at = rows.positions[:, None] + mx.arange(1, logits.shape[1] + 1)
    return keep_equal(*choose(logits, rows.seeds, at), rows.draft)


def choose(logits: mx.array, seeds: mx.array, at: mx.array) -> tuple[mx.array, mx.array]:
    """The tokens at some positions, [B, R] int32, and what they were chosen by, [B, R] float32.

    Args:
        logits: [B, R, V] float32.
        seeds: [B] uint32.
        at: [B, R] int32, the positions.
    """
    return chosen(logits + gumbel(seeds, at, logits.shape[-1]))
