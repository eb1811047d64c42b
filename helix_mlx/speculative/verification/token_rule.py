"""The token rule (Leviathan and others 2022, arXiv 2211.17192): each draft is kept or not by itself.

Draft x is kept with probability min(1, p(x) / q(x)); at the first that is not, the token is drawn from
norm(max(p - q, 0)); after all of them, from p.
"""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.speculative.verification.rejection import finite, next_token, prepare, ratios
from helix_mlx.speculative.verification.types import Rows, Verdict


def verify(rows: Rows) -> Verdict:
    """Keep drafts up to the first that is rejected."""
    cycle = prepare(rows)
    batch, count = cycle.draft_tokens.shape
    probs = acceptance_probs(cycle.target_probs, cycle.draft_probs, cycle.draft_tokens)
    accepted = first_rejection(cycle.accept_numbers < probs)
    return Verdict(accepted, next_token(cycle, accepted, mx.ones((batch, count + 1))), finite(cycle, accepted))


def acceptance_probs(target_probs: mx.array, draft_probs: mx.array, draft_tokens: mx.array) -> mx.array:
    """min(1, p(x) / q(x)) of each draft given that those before it are kept; shapes as in `ratios`, [B, K]."""
    return mx.minimum(ratios(target_probs, draft_probs, draft_tokens), 1.0)


def first_rejection(kept: mx.array) -> mx.array:
    """How many drafts come before the first that is not kept: [B, K] bool -> [B] int32."""
    return mx.sum(mx.cumprod(kept.astype(mx.int32), axis=1), axis=1)
