"""Random numbers that depend only on a key: not on the batch, on K, or on earlier draws.

A key is two 32-bit words: the folded seed, and a word made of a position, an index and a purpose. There are two
kinds of words, and the difference matters:

* Noise of the coupled rule belongs to a *token*: its word holds that token's own position, so draft and target
  see the same noise, and so does a token that was drafted, rolled back and drafted again.
* Noise of the token and block rules belongs to a *cycle*: its word holds n, the position of the cycle's last
  known token, which grows every cycle, and the index within the cycle. Keyed by the token's position instead, the
  numbers behind a draft that was rolled back would be used once more in the next cycle, although the block rule
  has looked at them already when it decided how many drafts to keep: the text would be biased.

MLX's generator is threefry, a counter-based function of the key, so any two words give independent numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import mlx.core as mx

_SMALLEST = 2.0**-33
"""Half the generator's step: keeps a uniform number away from 0, whose logarithm is not finite."""


class Purpose(IntEnum):
    """What a random number is used for; purposes never share numbers."""

    TARGET = 0
    """A token of the coupled rule; the draft and the target share it."""
    DRAFT = 1
    """Which token the draft proposes."""
    ACCEPT = 2
    """Whether a draft is kept."""
    RESIDUAL = 3
    """The token after the last draft that was kept."""


def fold_seed(seed: int) -> int:
    """32 bits of a 64-bit seed; seeds below 2^32 are kept as they are, so no two of them collide."""
    assert 0 <= seed < 2**64
    high = seed >> 32
    # MurmurHash3's finaliser, which maps 0 to 0.
    high = ((high ^ high >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    high = ((high ^ high >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return (seed & 0xFFFFFFFF) ^ high ^ high >> 16


def token_words(positions: mx.array) -> mx.array:
    """Words of the coupled rule, whose noise belongs to a token.

    Args:
        positions: [B, R] int32, each token's own position, below 2^26.

    Returns:
        [B, R] uint32.
    """
    return (positions.astype(mx.uint32) << 6) | int(Purpose.TARGET)


def cycle_words(positions: mx.array, draws: Sequence[tuple[Purpose, int]]) -> mx.array:
    """Words of the token and block rules, whose noise belongs to a cycle.

    Args:
        positions: [B] int32, n: the position of the cycle's last known token, below 2^26.
        draws: R pairs of a purpose and an index from 0 to 7 within the cycle.

    Returns:
        [B, R] uint32.
    """
    assert all(0 <= index < 8 for _, index in draws)
    codes = mx.array([index << 3 | purpose for purpose, index in draws], mx.uint32)
    return (positions.astype(mx.uint32) << 6)[:, None] | codes


def uniform(seeds: mx.array, positions: mx.array, draws: Sequence[tuple[Purpose, int]]) -> mx.array:
    """Uniform numbers above 0 and below 1, two for each draw of a cycle.

    Args:
        seeds: [B] uint32, folded.
        positions: [B] int32, n, as in `cycle_words`.
        draws: R pairs of a purpose and an index within the cycle.

    Returns:
        [B, R, 2] float32.
    """
    return _uniform(seeds, cycle_words(positions, draws), 2)


def gumbel(seeds: mx.array, positions: mx.array, vocab: int) -> mx.array:
    """Standard Gumbel noise of the tokens at some positions: argmax(logprobs + gumbel) is a draw from the probs.

    -log(-log(1 - u)): near u = 0 a float has its finest steps, and that is where the large values come from.

    Args:
        seeds: [B] uint32, folded.
        positions: [B, R] int32, the tokens' own positions.
        vocab: V.

    Returns:
        [B, R, V] float32, finite.
    """
    return -mx.log(-mx.log1p(-_uniform(seeds, token_words(positions), vocab)))


def _uniform(seeds: mx.array, words: mx.array, count: int) -> mx.array:
    """`count` numbers a key: seeds [B] and words [B, R] give [B, R, count]."""

    def one(key: mx.array) -> mx.array:
        return mx.random.uniform(_SMALLEST, 1.0, (count,), key=key)

    keys = mx.stack([mx.broadcast_to(seeds[:, None], words.shape), words], axis=-1)
    numbers: mx.array = mx.vmap(one)(keys.reshape(-1, 2))
    return numbers.reshape(*words.shape, count)
