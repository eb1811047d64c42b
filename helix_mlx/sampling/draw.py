"""Samples one token from probabilities and two uniform numbers, by inverting the cumulative distribution."""

from __future__ import annotations

import mlx.core as mx

_CHUNK = 128
"""Ids per chunk. A float32 running sum over a whole vocabulary would lose probabilities below 1e-7."""


def draw(probs: mx.array, numbers: mx.array) -> mx.array:
    """Sample a token per row: first a chunk of the vocabulary by its total probability, then a token in it.

    A token of probability 0 is never drawn. It takes no random number and no logarithm an id, as the Gumbel
    trick would, which is most of the cost where the vocabulary is large.

    Args:
        probs: [B, V] float32, not negative, with a positive sum, not necessarily 1.
        numbers: [B, 2] float32, uniform, above 0 and below 1.

    Returns:
        [B] int32.
    """
    batch, vocab = probs.shape
    if vocab <= _CHUNK:
        return _invert(probs, numbers[:, :1])
    chunks = -(-vocab // _CHUNK)
    if chunks * _CHUNK > vocab:
        probs = mx.pad(probs, [(0, 0), (0, chunks * _CHUNK - vocab)])
    parts = probs.reshape(batch, chunks, _CHUNK)
    chunk = _invert(parts.sum(axis=-1), numbers[:, :1])
    return chunk * _CHUNK + _invert(parts[mx.arange(batch), chunk], numbers[:, 1:])


def _invert(weights: mx.array, number: mx.array) -> mx.array:
    """The first place whose running sum exceeds number * total: weights [B, N] and number [B, 1] give [B] int32."""
    running = mx.cumsum(weights, axis=-1)
    reached = (running > number * running[:, -1:]).astype(mx.int8)
    # A parallel sum may not be monotone in the last bit, so zero weights are excluded explicitly.
    return mx.argmax(mx.where(weights > 0, reached, -1), axis=-1).astype(mx.int32)
