"""How well a draft says what the target would: the loss it is taught by, and the chance that its drafts are kept."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from helix_mlx.convert.distill.teacher import TEMPERATURES

WEIGHTS = ((0.5, 0.5), (0.5, 1.5))
"""For each of TEMPERATURES: of the divergence, which teaches from afar, and of the rejections, which count in the
end. DistillSpec (Zhou et al. 2023, 2310.08461) compares such mixtures."""
BEST_WEIGHT = 0.5
"""Of the target's best token, which alone counts at temperature 0."""
TINY = 1e-6


@dataclass(frozen=True)
class Rows:
    """A batch of texts with the target's opinion on them, for the N places whose next token is the target's.

    Args:
        tokens: `[B, L]` int32, padded at the end.
        places: `[N]` int32, of those places in `[B * L]`.
        weights: `[N]` float32, 1, or 0 where N was filled up.
        ids: `[N, top]` int32, the target's most likely next tokens, the best one first.
        logits: `[N, top]` float32, theirs, less the largest.
        partitions: `[N, len(TEMPERATURES)]` float32, of all its logits at each temperature.
        temperatures: `[N]` float32, that the text was written at.
    """

    tokens: mx.array
    places: mx.array
    weights: mx.array
    ids: mx.array
    logits: mx.array
    partitions: mx.array
    temperatures: mx.array


def imitation_loss(given_logits: mx.array, rows: Rows) -> mx.array:
    """How badly a draft's logits `[N, V]` speak for the target's opinion, a mean over its tokens."""
    total = mx.zeros_like(rows.weights)
    for number, (far, near) in enumerate(WEIGHTS):
        given_logprobs = top_logprobs(given_logits, rows.ids, TEMPERATURES[number])
        divergence, kept = compared(given_logprobs, rows, number)
        total = total + far * divergence + near * (1.0 - kept)
        if TEMPERATURES[number] == 1.0:
            total = total - BEST_WEIGHT * given_logprobs[:, 0]
    return mx.sum(total * rows.weights) / mx.maximum(mx.sum(rows.weights), 1.0)


def top_logprobs(logits: mx.array, ids: mx.array, temperature: float) -> mx.array:
    """`[N, top]`: the log probabilities of ids `[N, top]` by logits `[N, V]` at a temperature."""
    scaled = logits / temperature
    return mx.take_along_axis(scaled, ids, axis=-1) - mx.logsumexp(scaled, axis=-1, keepdims=True)


def compared(given_logprobs: mx.array, rows: Rows, number: int) -> tuple[mx.array, mx.array]:
    """A draft beside the target at TEMPERATURES[number], for each place.

    Args:
        given_logprobs: `[N, top]`, of the draft for `rows.ids`.
        rows: the target's opinion.
        number: of the temperature.

    Returns:
        `KL(target || draft)` in nats, with all that is not in `ids` as one token; and `sum(min(p, q))` over `ids`,
        the chance that the token rule keeps a draft; `[N]` each.
    """
    wanted_logprobs = rows.logits / TEMPERATURES[number] - rows.partitions[:, number, None]
    wanted_probs, given_probs = mx.exp(wanted_logprobs), mx.exp(given_logprobs)
    wanted_rest = mx.maximum(1.0 - mx.sum(wanted_probs, axis=-1), TINY)
    given_rest = mx.maximum(1.0 - mx.sum(given_probs, axis=-1), TINY)
    divergence = mx.sum(wanted_probs * (wanted_logprobs - given_logprobs), axis=-1)
    divergence = divergence + wanted_rest * (mx.log(wanted_rest) - mx.log(given_rest))
    return divergence, mx.sum(mx.minimum(wanted_probs, given_probs), axis=-1)


def kept_chance(given_logits: mx.array, rows: Rows) -> mx.array:
    """`[N]`: the chance that a draft is kept, at the temperature that each text was written at.

    At 0 that is whether both like the same token best; at others `sum(min(p, q))`.
    """
    chance = (mx.argmax(given_logits, axis=-1) == rows.ids[:, 0]).astype(mx.float32)
    for number, temperature in enumerate(TEMPERATURES):
        _, kept = compared(top_logprobs(given_logits, rows.ids, temperature), rows, number)
        chance = mx.where(mx.abs(rows.temperatures - temperature) < 1e-3, kept, chance)
    return chance
