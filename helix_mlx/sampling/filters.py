"""From logits to the probabilities that are sampled: temperature, top-k, top-p, min-p, then renormalise.

The order is Hugging Face's. (mlx-lm filters first and applies the temperature last, so its top-p keeps other
tokens at a temperature other than 1.) Each filter keeps the logits at or above a threshold of its own, so all
tokens that tie with the last one kept are kept, as Hugging Face's top-k does. Top-p measures the probabilities
that top-k left, and counts exactly k of them where more than k tie.

A row's result is bitwise the same in any batch: what a row does not use leaves it untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.request import SamplingParams

_NO_TOP_K = 2**31 - 1
_TINY = 1e-30
"""Smallest temperature and top-p computed with: far below anything that matters, far above float32's underflow."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters of B sequences, on the device, and what the host knows of them.

    Args:
        temperature: [B] float32; 1 where the sequence is greedy, so that sharing a batch makes no nan.
        top_k: [B] int32; a number no vocabulary reaches where it is off.
        top_p: [B] float32; 1 is off.
        min_p: [B] float32; 0 is off.
        params: the settings the arrays were made from; a filter that none of them uses adds no operation.
    """

    temperature: mx.array
    top_k: mx.array
    top_p: mx.array
    min_p: mx.array
    params: tuple[SamplingParams, ...]

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> Filters:
        """The filters of these requests, one a sequence. Greedy ones (temperature 0) count as unfiltered."""
        used = tuple(p if p.temperature > 0 else SamplingParams(temperature=1.0) for p in params)
        return cls(
            temperature=mx.array([max(p.temperature, _TINY) for p in used], mx.float32),
            top_k=mx.array([min(p.top_k, _NO_TOP_K) or _NO_TOP_K for p in used], mx.int32),
            top_p=mx.array([max(p.top_p, _TINY) for p in used], mx.float32),
            min_p=mx.array([p.min_p for p in used], mx.float32),
            params=used,
        )

    def take(self, rows: Sequence[int]) -> Filters:
        """The filters of some of the sequences, in the order named."""
        return Filters.of([self.params[row] for row in rows])


def filtered_probs(logits: mx.array, filters: Filters) -> mx.array:
    """The probabilities a token is sampled from.

    Args:
        logits: [B, R, V], any float type.
        filters: of the B sequences.

    Returns:
        [B, R, V] float32; every row sums to 1, and what a filter removed is exactly 0.
    """
    return mx.softmax(filtered_logits(logits, filters), axis=-1)


def filtered_logits(logits: mx.array, filters: Filters) -> mx.array:
    """The logits of `filtered_probs`: [B, R, V] float32, with -inf for what a filter removed."""
    logits = logits.astype(mx.float32)
    if any(p.temperature != 1 for p in filters.params):
        logits = logits / filters.temperature[:, None, None]
    threshold = _threshold(logits, filters)
    # Written this way, a NaN logit is kept, so that the sampler notices it.
    return logits if threshold is None else mx.where(logits < threshold, -mx.inf, logits)


def _threshold(logits: mx.array, filters: Filters) -> mx.array | None:
    """The least logit that each row keeps, [B, R, 1]; None where no filter is on."""
    vocab = logits.shape[-1]
    uses_top_k = [0 < p.top_k < vocab for p in filters.params]
    uses_top_p = [p.top_p < 1 for p in filters.params]
    thresholds = []
    ranked = None
    if any(p and not k for p, k in zip(uses_top_p, uses_top_k, strict=True)):
        ranked = mx.sort(logits, axis=-1)
    elif any(uses_top_k):
        # Sorting only the best few is cheap; sorting the vocabulary would cost more than everything else.
        width = max(p.top_k for p, used in zip(filters.params, uses_top_k, strict=True) if used)
        ranked = mx.sort(mx.topk(logits, width, axis=-1), axis=-1)
    if ranked is not None and any(uses_top_k):
        thresholds.append(_top_k_threshold(ranked, filters.top_k[:, None, None]))
    if ranked is not None and any(uses_top_p):
        top_k = filters.top_k[:, None, None] if any(uses_top_k) else None
        thresholds.append(_top_p_threshold(ranked, top_k, filters.top_p[:, None, None]))
    if any(p.min_p > 0 for p in filters.params):
        best = ranked[..., -1:] if ranked is not None else mx.max(logits, axis=-1, keepdims=True)
        # p >= min_p * max(p), in logits; log(0) = -inf keeps everything.
        thresholds.append(best + mx.log(filters.min_p)[:, None, None])
    if not thresholds:
        return None
    threshold = thresholds[0]
    for other in thresholds[1:]:
        threshold = mx.maximum(threshold, other)
    return threshold


def _top_k_threshold(ranked: mx.array, top_k: mx.array) -> mx.array:
    """The k-th best logit: ranked [B, R, W] ascending and top_k [B, 1, 1] give [B, R, 1], -inf where k is off."""
    width = ranked.shape[-1]
    kth = mx.take_along_axis(ranked, width - mx.minimum(top_k, width), axis=-1)
    return mx.where(top_k <= width, kth, -mx.inf)


def _top_p_threshold(ranked: mx.array, top_k: mx.array | None, top_p: mx.array) -> mx.array:
    """The least logit with less than top_p of the mass above it.

    Args:
        ranked: [B, R, W] float32, a row's W best logits, ascending; all those that top_p may keep.
        top_k: [B, 1, 1] int32, or None where no row uses it.
        top_p: [B, 1, 1] float32.

    Returns:
        [B, R, 1] float32, -inf where top_p is off.
    """
    width = ranked.shape[-1]
    weights = mx.exp(ranked - ranked[..., -1:])
    if top_k is not None:
        # By rank, not by value, so that the sum is the same whether W is k or the whole vocabulary.
        rank = mx.arange(width - 1, -1, -1)
        weights = mx.where(rank < top_k, weights, 0.0)
    above = mx.cumsum(weights, axis=-1, reverse=True, inclusive=False)
    total = above[..., :1] + weights[..., :1]
    dropped = mx.sum(above >= top_p * total, axis=-1, keepdims=True)
    return mx.where(top_p < 1, mx.take_along_axis(ranked, dropped, axis=-1), -mx.inf)
