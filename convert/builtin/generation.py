"""Text written by the target itself, on which the draft is distilled.

A draft is asked to continue what the target wrote, not what the corpus says: the two differ most where the target does
not know its text by heart, so the prompts include functions the target was never asked about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from helix_mlx.convert.builtin.data.batches import QUESTION_WEIGHT, Tokens, Weights

# Greedy text matters as much as sampled text, and it is where the draft must agree with the argmax.
TEMPERATURES = (0.0, 0.0, 0.8, 0.8, 1.0)


@dataclass(frozen=True)
class Written:
    """A prompt and what the target wrote after it, with the weight of each token."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def continue_prompts(
    model: nn.Module, prompts: Tokens, temperatures: NDArray[np.float32], max_tokens: int, eos_ids: Sequence[int]
) -> list[list[int]]:
    """Continuations of a batch of prompts of one length [B, P], each up to and with its end token.

    ``temperatures`` [B]; 0 takes the most likely token.
    """
    cache = make_prompt_cache(model)
    warm = mx.array(temperatures)[:, None]
    logits = model(mx.array(prompts), cache=cache)[:, -1]
    done = np.zeros(len(prompts), dtype=bool)
    written: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_tokens):
        drawn = mx.random.categorical(logits / mx.maximum(warm, 1e-3))
        tokens = mx.where(warm[:, 0] > 0, drawn, mx.argmax(logits, axis=-1))
        chosen = np.array(tokens)
        for row in np.flatnonzero(~done):
            written[row].append(int(chosen[row]))
        done |= np.isin(chosen, eos_ids)
        if done.all():
            break
        logits = model(tokens[:, None], cache=cache)[:, -1]
    return written


def write_texts(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], max_tokens: int, eos_ids: Sequence[int], seed: int
) -> Iterator[Written]:
    """The target's continuations of ``prompts``, in batches of prompts of equal length, at mixed temperatures."""
    draw = np.random.default_rng(seed)
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for prompt in prompts:
        by_length[len(prompt)].append(prompt)
    for group in by_length.values():
        for start in range(0, len(group), 64):
            batch = np.array(group[start : start + 64], dtype=np.int32)
            if len(batch) < 8:  # not worth a pass of its own
                continue
            warm = draw.choice(np.array(TEMPERATURES, dtype=np.float32), size=len(batch))
            texts = continue_prompts(model, batch, warm, max_tokens, eos_ids)
            for prompt, text in zip(batch.tolist(), texts, strict=True):
                weights = [QUESTION_WEIGHT] * len(prompt) + [1.0] * len(text)
                yield Written((*prompt, *text), tuple(weights))


class WrittenSource:
    """Packs the target's texts into training rows: chats one after another, code one text a row."""

    def __init__(self, texts: Sequence[Written], end_of_text: int, seed: int) -> None:
        self._texts = texts
        self._end_of_text = end_of_text
        self._random = np.random.default_rng(seed)

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """``rows`` rows of ``length + 1`` tokens, and the weight of each of the ``length`` predictions."""
        pairs = [self._row(length + 1) for _ in range(rows)]
        tokens = np.array([pair[0] for pair in pairs], dtype=np.int32)
        weights = np.array([pair[1] for pair in pairs], dtype=np.float32)
        return tokens, weights[:, 1:]

    def _row(self, length: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) < length:
            text = self._texts[int(self._random.integers(len(self._texts)))]
            tokens += [*text.tokens, self._end_of_text]
            weights += [*text.weights, QUESTION_WEIGHT]
        return tokens[:length], weights[:length]
