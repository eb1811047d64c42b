"""Adapts a draft with another vocabulary to the target's: it proposes only tokens that both have.

What it would say besides is left out, and the rest of its probabilities is what it drafts from (token-level
intersection, Timor and others, arXiv 2502.05202). Verification stays exact, as for any draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from helix_mlx.models.loader import LanguageModel
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import fallback_ids, shared_ids


class SharedVocabulary(nn.Module):
    """A draft model whose ids are the target's.

    Args:
        draft: an mlx-lm model.
        ids: [V] int32, for each of the target's ids the draft's that it reads instead.
        shared: [V] bool, whether that is the same token, so that the draft may propose it.
    """

    def __init__(self, draft: LanguageModel, ids: mx.array, shared: mx.array) -> None:
        super().__init__()
        self.draft = draft
        self._ids = ids
        self._shared = shared

    @classmethod
    def of(
        cls, draft: LanguageModel, target_tokenizer: Tokenizer, draft_tokenizer: Tokenizer, size: int
    ) -> SharedVocabulary:
        """A draft behind the vocabulary of a target whose logits are of width `size`."""
        shared = shared_ids(target_tokenizer, draft_tokenizer)
        ids, known = np.zeros(size, np.int32), np.zeros(size, bool)
        for index, other in {**fallback_ids(target_tokenizer, draft_tokenizer, shared), **shared}.items():
            if index < size:
                ids[index], known[index] = other, index in shared
        return cls(draft, mx.array(ids), mx.array(known))

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """One forward pass: the target's ids [B, M] give logits [B, M, V], -inf for what the draft cannot say."""
        draft_logits = self.draft(self._ids[inputs], cache=cache)
        return mx.where(self._shared, mx.take(draft_logits, self._ids, axis=-1), -mx.inf)

    @property
    def layers(self) -> Any:
        """The draft's, for caches."""
        model: Any = self.draft
        return model.layers

    def make_cache(self) -> list[Any]:
        """The draft's own caches."""
        from mlx_lm.models.cache import make_prompt_cache

        model: Any = self.draft
        return make_prompt_cache(model)
