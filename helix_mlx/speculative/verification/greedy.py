"""Temperature 0: accept the longest prefix that equals the target's own choices."""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.speculative.verification.types import Draft, DraftStep, Rows, Verdict


def propose(step: DraftStep) -> tuple[mx.array, mx.array | None]:
    """The draft's best token; it is deterministic, so there are no probabilities."""
    return mx.argmax(step.draft_logits, axis=-1).astype(mx.int32), None


def verify(rows: Rows) -> Verdict:
    """Compare the drafts with the target's best tokens."""
    return keep_equal(*best_tokens(rows.target_logits), rows.draft)


def best_tokens(logits: mx.array) -> tuple[mx.array, mx.array]:
    """The target's choice in each row, as mlx-lm makes it: [B, R, V] gives [B, R] int32, and their logprobs.

    One logit that is no number leaves no logprob of its row a number. In half precision the subtraction merges logits
    that nearly tie, and then the lowest id wins. The text has to be mlx-lm's, so the subtraction stays, in the logits'
    own type.
    """
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return chosen(logprobs)


def chosen(scores: mx.array) -> tuple[mx.array, mx.array]:
    """The best place of each row, [B, R, V] -> [B, R] int32, and its score; a place that is NaN is the best."""
    tokens = mx.argmax(scores, axis=-1)
    return tokens.astype(mx.int32), mx.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]


def keep_equal(target_tokens: mx.array, scores: mx.array, draft: Draft | None) -> Verdict:
    """Keep the longest prefix of the drafts that equals the target's tokens; the target's next one follows.

    Args:
        target_tokens: [B, K + 1] int32.
        scores: [B, K + 1], what each of them was chosen by.
        draft: K drafts, or None where K is 0.
    """
    finite = mx.isfinite(scores)
    if draft is None:
        return Verdict(mx.zeros(target_tokens.shape[:1], mx.int32), target_tokens[:, 0], finite[:, 0])
    equal = (draft.tokens == target_tokens[:, :-1]).astype(mx.int32)
    accepted = mx.sum(mx.cumprod(equal, axis=1), axis=1)
    next_token = mx.take_along_axis(target_tokens, accepted[:, None], axis=1)[:, 0]
    return Verdict(accepted, next_token, all_finite(finite, accepted))


def all_finite(finite: mx.array, accepted: mx.array) -> mx.array:
    """Whether all rows were numbers that decided: those up to the first draft not kept.

    Args:
        finite: [B, K + 1] bool.
        accepted: [B] int32.

    Returns:
        [B] bool.
    """
    return mx.all(finite | (mx.arange(finite.shape[1]) > accepted[:, None]), axis=1)
