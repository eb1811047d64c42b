"""The head as a module: what it shares with its target, and the layer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx_lm.models.base import create_attention_mask


class Trunk:
    """A target in two halves: up to its last hidden states, and from these to logits.

    No module itself, so that what holds it does not hold the target's weights once more.

    Args:
        model: of mlx-lm, of a family in `families.py`.
    """

    def __init__(self, model: Any) -> None:
        self._text = getattr(model, "language_model", model)

    def hidden(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Token ids [B, M] give hidden states [B, M, H], behind the final norm: a head was trained on these."""
        states: mx.array = self._text.model(inputs, cache)
        return states

    def embed(self, inputs: mx.array) -> mx.array:
        """Token ids [B, M] give embeddings [B, M, H]."""
        embeddings: mx.array = self._text.model.embed_tokens(inputs)
        return embeddings

    def logits(self, hidden: mx.array) -> mx.array:
        """Hidden states [B, M, H] give logits [B, M, V]."""
        text = self._text
        project: Callable[[mx.array], mx.array] = (
            text.lm_head if "lm_head" in text else text.model.embed_tokens.as_linear
        )
        return project(hidden)


class MTPHead(nn.Module):
    """Foresees the token after the next from a hidden state and the next token's embedding.

    Row i has the target's hidden state at position i and the token at position i + 1, and its logits are of the token
    at i + 2. Where there is no such hidden state yet, the head's own takes its place.

    Args:
        trunk: of the target.
        layer: a decoder layer of the target's family, with full attention.
        size: H.
        eps: of the norms.
        hidden_first: the order in which both are read.
    """

    def __init__(self, trunk: Trunk, layer: Module, size: int, eps: float, hidden_first: bool = False) -> None:
        super().__init__()
        self.pre_fc_norm_embedding = nn.RMSNorm(size, eps)
        self.pre_fc_norm_hidden = nn.RMSNorm(size, eps)
        self.fc = nn.Linear(2 * size, size, bias=False)
        self.layers = [layer]
        self.norm = nn.RMSNorm(size, eps)
        self.trunk = trunk
        self._size = size
        self._hidden_first = hidden_first

    def __call__(self, tokens: mx.array, hidden: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """One pass.

        Args:
            tokens: [B, M] int32, at positions i + 1.
            hidden: [B, M, H], at positions i.
            cache: one cache object, for the layer.

        Returns:
            [B, M, H], for `trunk.logits`, and in the place of hidden states for the rows behind.
        """
        parts = [self.pre_fc_norm_embedding(self.trunk.embed(tokens)), self.pre_fc_norm_hidden(hidden)]
        rows = self.fc(mx.concatenate(parts[::-1] if self._hidden_first else parts, axis=-1))
        own = None if cache is None else cache[0]
        mask = create_attention_mask(rows, own, return_array=own is not None and tokens.shape[1] > 1)
        layer: Any = self.layers[0]
        out: mx.array = self.norm(layer(rows, mask=mask, cache=own))
        return out

    def no_hidden(self) -> mx.array:
        """[1, 1, H] of zeros: stands for a hidden state that is not known."""
        return mx.zeros((1, 1, self._size), self.dtype)

    @property
    def dtype(self) -> mx.Dtype:
        """Of the hidden states."""
        return self.trunk.embed(mx.zeros((1, 1), mx.int32)).dtype
