"""The order in which a draft sees the target's texts, and the batches they come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from helix_mlx.convert.distill.distillation_loss import Rows
from helix_mlx.convert.distill.teacher import Opinion
from helix_mlx.convert.distill.texts import Text

ROWS = 8
STEP = 64
"""Rows and places are filled up to multiples of it: each size of a batch is compiled once."""


class TeachingTexts:
    """Texts and what the target thinks of them.

    Args:
        texts: of the target.
        opinions: of the target, one a text.
        limit: the most tokens of a row; a longer text loses its end.
    """

    def __init__(self, texts: Sequence[Text], opinions: Sequence[Opinion], limit: int) -> None:
        # A text of one token that is cut away whole has nothing to teach.
        pairs = [(text, opinion) for text, opinion in zip(texts, opinions, strict=True) if text.start <= limit]
        self._texts = [text for text, _ in pairs]
        self._opinions = [opinion for _, opinion in pairs]
        self._limit = limit

    def __len__(self) -> int:
        return -(-len(self._texts) // ROWS)

    def batches(self, seed: int | None) -> Iterator[Rows]:
        """All texts once; shuffled, but with those of like lengths together, by a seed, or in their order for None."""
        order = np.arange(len(self._texts))
        if seed is not None:
            draw = np.random.default_rng(seed)
            lengths = np.array([len(text.tokens) for text in self._texts])
            order = np.argsort(lengths + draw.uniform(0, STEP, len(lengths)), kind="stable")
            groups = [order[first : first + ROWS] for first in range(0, len(order), ROWS)]
            draw.shuffle(groups)
        else:
            groups = [order[first : first + ROWS] for first in range(0, len(order), ROWS)]
        for group in groups:
            yield self._rows([int(number) for number in group])

    def _rows(self, numbers: Sequence[int]) -> Rows:
        sizes = [min(len(self._texts[number].tokens) - 1, self._limit) for number in numbers]
        length, top = _filled_up(max(sizes)), self._opinions[numbers[0]].ids.shape[-1]
        tokens = np.zeros((ROWS, length), np.int32)
        parts: list[tuple[Any, ...]] = []
        for row, (number, size) in enumerate(zip(numbers, sizes, strict=True)):
            text, opinion = self._texts[number], self._opinions[number]
            tokens[row, :size] = text.tokens[:size]
            places = row * length + np.arange(text.start - 1, size, dtype=np.int32)
            count = len(places)
            told = (np.array(each)[:count] for each in (opinion.ids, opinion.logits, opinion.partitions))
            parts.append((places, np.ones(count, np.float32), *told, np.full(count, text.temperature, np.float32)))
        places, weights, ids, logits, partitions, temperatures = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        more = _filled_up(len(places)) - len(places)
        filler = np.full((more, partitions.shape[-1]), np.log(top), np.float32)
        arrays = (
            tokens,
            np.pad(places, (0, more)),
            np.pad(weights, (0, more)),
            np.pad(ids, ((0, more), (0, 0))),
            np.pad(logits.astype(np.float32), ((0, more), (0, 0))),
            np.concatenate([partitions, filler]),
            np.pad(temperatures, (0, more)),
        )
        return Rows(*(mx.array(each) for each in arrays))


def _filled_up(count: int) -> int:
    return -(-count // STEP) * STEP
