"""The drafters that run a model, one token at a time: a small one, or a head of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from helix_mlx.models.loader import LanguageModel
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.speculative.drafter import DraftContext
from helix_mlx.speculative.verification import draft_token
from helix_mlx.speculative.verification.types import Draft


class DraftModel:
    """Samples each draft from the draft model's filtered distribution.

    Each draft is enqueued as soon as it is built, without waiting for it.

    The first pass reads the last two tokens: after a full acceptance the draft has not read the one before the
    last yet, and reading it again where it has costs next to nothing and keeps shapes fixed. Where it has missed a few
    more, since others drafted, it reads those along with them.

    Args:
        model: an mlx-lm model.
        width: of its logits, which is how many token ids it knows.
        vocab_size: the width of the target's logits. The draft's are cut or filled to it, and ids that only the
            target's padding has are read as the draft's last one.
    """

    def __init__(self, model: LanguageModel, width: int, vocab_size: int) -> None:
        self._model = model
        self._width = width
        self._vocab_size = vocab_size

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """One forward pass: token ids [B, M] give logits [B, M, width]."""
        if self._width < self._vocab_size:
            inputs = mx.minimum(inputs, self._width - 1)
        return self._model(inputs, cache=cache)

    def propose(self, context: DraftContext, count: int) -> Draft:
        """See `ModelDrafter.propose`. Needs the keys and values up to n - W, and writes on to n + count - 1."""
        kv = context.kv
        assert kv is not None
        assert count >= 1

        def logits(rows: mx.array, index: int) -> mx.array:
            at = context.positions + (index - rows.shape[1])
            caches = kv.caches(at, context.limit + index, context.exact, record=True)
            return self._fit(self(rows, cache=caches)[:, -1])

        return _chain(context, count, context.last, logits)

    def _fit(self, draft_logits: mx.array) -> mx.array:
        width = self._width
        if width > self._vocab_size:
            return draft_logits[:, : self._vocab_size]
        if width < self._vocab_size:
            return mx.pad(draft_logits, [(0, 0), (0, self._vocab_size - width)], constant_values=-mx.inf)
        return draft_logits


class HeadDrafter:
    """Draws each draft from what a multi-token-prediction head foresees.

    The first pass has the target's own hidden state of the last position that it has read, and the last token; each
    one behind it the head's own output and the draft before.

    Args:
        head: of the target.
    """

    def __init__(self, head: MTPHead) -> None:
        self._head = head

    def propose(self, context: DraftContext, count: int) -> Draft:
        """See `ModelDrafter.propose`. Needs the keys and values up to n - 2, and writes on to n + count - 2."""
        kv = context.kv
        assert kv is not None
        assert context.hidden is not None
        hidden = context.hidden

        def logits(rows: mx.array, index: int) -> mx.array:
            nonlocal hidden
            caches = kv.caches(context.positions + (index - 2), context.limit + index - 1, context.exact)
            hidden = self._head(rows, hidden, caches)
            return self._head.trunk.logits(hidden)[:, -1]

        return _chain(context, count, context.last[:, -1:], logits)


def _chain(context: DraftContext, count: int, rows: mx.array, logits: Callable[[mx.array, int], mx.array]) -> Draft:
    """Draw drafts one after the other, each from what is read with the one before it.

    Args:
        context: the sequences' settings.
        count: how many drafts.
        rows: [B, M] int32, the tokens of the first pass.
        logits: a pass: of its tokens [B, M] and of the draft's number, from 1, it makes the draft's logits [B, V].
    """
    tokens: list[mx.array] = []
    probs: list[mx.array] = []
    for index in range(1, count + 1):
        token, token_probs = draft_token(
            logits(rows, index), index, context.filters, context.seeds, context.positions, context.rules
        )
        tokens.append(token)
        if token_probs is not None:
            probs.append(token_probs)
        # The device starts here, while the host builds the next draft or the target's pass.
        mx.async_eval(tokens[-1:], probs[-1:])
        rows = token[:, None]
    return Draft(mx.stack(tokens, axis=1), mx.stack(probs, axis=1) if probs else None)
