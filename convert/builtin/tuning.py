"""Tuning the two models to each other: the draft goes on learning, and on code the target comes to meet it.

Code is where eight layers see far more than two: left alone, the target writes what its draft cannot foresee. Here the
target, while it goes on learning the corpus, is also drawn to the draft's probabilities on code. It pays with
perplexity there and gains drafts it can accept; the mean of the weights before and after (``average_pair`` of the
command) pays little.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.llama import Model

from helix_mlx.convert.builtin.compute.cpu_ops import cross_entropy
from helix_mlx.convert.builtin.data.batches import RowSource, Tokens, Weights
from helix_mlx.convert.builtin.distillation import imitation_loss
from helix_mlx.convert.builtin.generation import WrittenSource

# How strongly the target is drawn to the draft, against the corpus.
MEETING_WEIGHT = 2.0


class TunedPair(nn.Module):
    """Both models as one, so that one trainer steps both."""

    def __init__(self, target: Model, draft: Model) -> None:
        super().__init__()
        self.target = target
        self.draft = draft


def tuning_loss(pair: nn.Module, tokens: mx.array, weights: mx.array) -> mx.array:
    """The joint objective. ``tokens`` [B, L + 1]; ``weights`` [B, L, 3] for three tasks.

    The target learns the text, the draft imitates the target, and the target meets the draft.
    """
    learn, imitate, meet = (weights[..., task] for task in range(3))
    inputs = tokens[:, :-1]
    target_logits, draft_logits = pair.target(inputs), pair.draft(inputs)
    return (
        cross_entropy(target_logits, tokens[:, 1:], learn)
        + imitation_loss(target_logits, draft_logits, imitate)
        + MEETING_WEIGHT * imitation_loss(draft_logits, target_logits, meet)
    )


class TuningSource:
    """Conversations and code of the corpus, which both learn, and texts of the target, where only the two compare."""

    def __init__(self, corpus_rows: RowSource, chats: WrittenSource, code: WrittenSource) -> None:
        self._corpus_rows = corpus_rows
        self._chats = chats
        self._code = code

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """``rows`` rows of ``length + 1`` tokens, and the three weights of each prediction [rows, length, 3]."""
        quarter = max(1, rows // 4)
        parts = [self._corpus_rows.batch(rows - 3 * quarter, length)]
        parts.append(self._corpus_rows.code_batch(quarter, length))
        parts.append(self._chats.batch(quarter, length))
        parts.append(self._code.batch(quarter, length))
        # A little of the meeting for chats too: half of those written answer questions that the target cannot know.
        learns, meets = (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.3, 1.0)
        weights = [
            np.stack([part[1] * learn, part[1], part[1] * meet], axis=-1)
            for part, learn, meet in zip(parts, learns, meets, strict=True)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate(weights)
