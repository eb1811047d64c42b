"""Temperature 0: keep the longest prefix that equals what the target would have said."""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.speculative.verification.types import Draft, DraftStep, Rows, Verdict


def propose(step: DraftStep) -> tuple[mx.array, mx.array | None]:
    """The draft's best token; no chance is in it, so no probabilities."""
    return mx.argmax(step.draft_logits, axis=-1).astype(mx.int32), None


def verify(rows: Rows) -> Verdict:
    """Compare the drafts with the target's best tokens."""
    return keep_equal(best_tokens(rows.target_logits), rows.draft)


def best_tokens(logits: mx.array) -> mx.array:
    """The target's choice in each row, [B, R, V] -> [B, R] int32, as mlx-lm makes it.

    In half precision the subtraction merges logits that nearly tie, and then the lowest id wins. The text has to
    be mlx-lm's, so the subtraction stays, in the logits' own type.
    """
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.argmax(logprobs, axis=-1).astype(mx.int32)


def keep_equal(target_tokens: mx.array, draft: Draft | None) -> Verdict:
    """Keep the longest prefix of the drafts that equals the target's tokens; the target's next one follows.

    Args:
        target_tokens: [B, K + 1] int32.
        draft: K drafts, or None where K is 0.
    """
    if draft is None:
        return Verdict(mx.zeros(target_tokens.shape[:1], mx.int32), target_tokens[:, 0])
    equal = (draft.tokens == target_tokens[:, :-1]).astype(mx.int32)
    accepted = mx.sum(mx.cumprod(equal, axis=1), axis=1)
    return Verdict(accepted, mx.take_along_axis(target_tokens, accepted[:, None], axis=1)[:, 0])
