"""Distilling the draft from the quantised target, on the corpus and on text the target wrote."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.llama import Model

from helix_mlx.convert.builtin.architecture import TARGET, fake_quantised, load_float_checkpoint
from helix_mlx.convert.builtin.compute.cpu_ops import cross_entropy, log_partition, negative_exp
from helix_mlx.convert.builtin.data.batches import RowSource, Tokens, Weights
from helix_mlx.convert.builtin.generation import Written, WrittenSource, write_texts
from helix_mlx.convert.builtin.training import BatchSource

# Draft and target are compared as sampling at these temperatures would: (temperature, weight of the divergence, weight
# of the rejection rate). The divergence teaches from afar, the rejection rate is what counts in the end.
COMPARISONS = ((1.0, 0.5, 0.5), (0.8, 0.5, 1.5))
# At temperature 0 only the target's best token counts.
BEST_TOKEN_WEIGHT = 0.2

CODE_PROMPT_TOKENS, CODE_TOKENS = (32, 64, 96), 160
CHAT_TOKENS = 96
# Of the rows of a batch, those from text the target wrote.
WRITTEN_SHARE = 0.6


def load_teacher(folder: Path) -> Model:
    """The target as its 4-bit weights will be, in float32: what the draft has to imitate."""
    teacher = load_float_checkpoint(TARGET, folder)
    teacher.update(fake_quantised(teacher.parameters()))
    mx.eval(teacher.parameters())
    teacher.freeze()
    return teacher


def weighted_mean(values: mx.array, weights: mx.array) -> mx.array:
    """Mean of values [B, L] with weights [B, L]."""
    return mx.sum(values * weights) / mx.maximum(mx.sum(weights), 1.0)


def compare(teacher_logits: mx.array, logits: mx.array, temperature: float) -> tuple[mx.array, mx.array]:
    """How far logits [B, L, V] are from the teacher's at a temperature, for each position [B, L].

    Returns KL(teacher || model) in nats, and the share of drafted tokens that the token rule would reject:
    ``1 - sum(min(p, q))``.
    """
    wanted, given = teacher_logits / temperature, logits / temperature
    wanted_logprobs = wanted - log_partition(wanted)[..., None]
    given_logprobs = given - log_partition(given)[..., None]
    wanted_probs = negative_exp(mx.minimum(wanted_logprobs, 0.0))
    given_probs = negative_exp(mx.minimum(given_logprobs, 0.0))
    divergence = mx.sum(wanted_probs * (wanted_logprobs - given_logprobs), axis=-1)
    return divergence, 1.0 - mx.sum(mx.minimum(wanted_probs, given_probs), axis=-1)


def imitation_loss(wanted: mx.array, given: mx.array, weights: mx.array) -> mx.array:
    """How badly the logits ``given`` [B, L, V] speak for the logits ``wanted``, weights [B, L]."""
    wanted = mx.stop_gradient(wanted)
    total = BEST_TOKEN_WEIGHT * cross_entropy(given, mx.argmax(wanted, axis=-1), weights)
    for temperature, far, near in COMPARISONS:
        divergence, rejected = compare(wanted, given, temperature)
        total = total + weighted_mean(far * divergence + near * rejected, weights)
    return total


def distillation_loss(teacher: nn.Module) -> Callable[[nn.Module, mx.array, mx.array], mx.array]:
    """The objective of a draft under ``teacher``, for :class:`helix_mlx.convert.builtin.training.Trainer`."""

    def loss(model: nn.Module, tokens: mx.array, weights: mx.array) -> mx.array:
        inputs = tokens[:, :-1]
        return imitation_loss(teacher(inputs), model(inputs), weights)

    return loss


def write_training_texts(
    teacher: Model, source: RowSource, eos_ids: tuple[int, int], minutes: float, seed: int
) -> tuple[list[Written], list[Written]]:
    """What the target writes in ``minutes``, from prompts of every kind: chats, and code."""
    chats: list[Written] = []
    code: list[Written] = []
    until = time.monotonic() + 60.0 * minutes
    turn = 0
    while time.monotonic() < until or turn < 2:
        if turn % 2 == 0:
            prompts = [source.chat_prompt() for _ in range(768)]
            chats += write_texts(teacher, _single_lengths(prompts), CHAT_TOKENS, eos_ids, seed + turn)
        else:
            length = CODE_PROMPT_TOKENS[turn // 2 % len(CODE_PROMPT_TOKENS)]
            prompts = [source.code_prompt(length) for _ in range(64)]
            code += write_texts(teacher, prompts, CODE_TOKENS, eos_ids, seed + turn)
        turn += 1
    return chats, code


def _single_lengths(prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The prompts of the lengths that fill at least half a batch: prompts are batched by equal length."""
    lengths = [len(prompt) for prompt in prompts]
    return [prompt for prompt in prompts if lengths.count(len(prompt)) >= 24]


class MixedSource:
    """Rows of the corpus beside rows of the target's own chats and code."""

    def __init__(self, corpus_rows: RowSource, chats: WrittenSource, code: WrittenSource) -> None:
        self._sources: tuple[BatchSource, ...] = (corpus_rows, chats, code)

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """``rows`` rows of ``length + 1`` tokens, and the weight of each of the ``length`` predictions."""
        written = max(2, round(rows * WRITTEN_SHARE))
        counts = (rows - written, written - written // 2, written // 2)
        parts = zip(self._sources, counts, strict=True)
        pairs = [source.batch(count, length) for source, count in parts if count > 0]
        return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
