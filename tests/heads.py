"""Multi-token-prediction heads for tiny targets: random ones, and one that always foresees what its target says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.models.mtp.load import as_draft
from helix_mlx.models.mtp.weights import family_of, new_head
from helix_mlx.models.pair import Pair
from tests.census.families import FAMILIES
from tests.support import VOCAB, built, byte_tokenizer, random_model, randomize


def target_of(family: str, seed: int = 0) -> LoadedModel:
    """A random target of a family."""
    return built({**FAMILIES[family].config, "model_type": family}, seed)


def random_head(target: LoadedModel, seed: int = 3) -> MTPHead:
    """A head with random float32 weights."""
    family = family_of(target.config)
    assert family is not None
    head = new_head(target.config, family, target.model)
    randomize(head, mx.random.split(mx.random.key(seed), 256))
    return head


def foreseeing_pair() -> Pair:
    """A target that says token t + 1 after token t, and a head that knows it from the hidden state alone.

    Each token has a direction of its own in the hidden states. The head takes the state of position i, which is the
    direction of its token, turns it to the direction of the next token, and drafts what follows that. With the state of
    any other position it is always wrong.
    """
    target = random_model("llama", hidden_size=VOCAB, num_hidden_layers=1, tie_word_embeddings=False)
    model: Any = target.model
    shift = mx.eye(VOCAB)[mx.arange(1, VOCAB + 1) % VOCAB]  # row t is the direction of t + 1
    silent = {name: mx.zeros_like(weight) for name, weight in _outputs(model)}
    model.load_weights(
        [("model.embed_tokens.weight", mx.eye(VOCAB)), ("lm_head.weight", shift.T), *silent.items()], strict=False
    )
    head = random_head(target)
    silent = {name: mx.zeros_like(weight) for name, weight in _outputs(head)}
    fc = mx.concatenate([mx.zeros((VOCAB, VOCAB)), shift.T], axis=1)
    head.load_weights([("fc.weight", fc), *silent.items()], strict=False)
    mx.eval(head.parameters(), model.parameters())
    return headed_pair(target, head)


def trained_head(target: LoadedModel, texts: list[list[int]], steps: int) -> MTPHead:
    """A random head that has learnt to foresee what its target says to these texts, which are of one length."""
    head = random_head(target)
    tokens = mx.array(texts)
    hidden = head.trunk.hidden(tokens[:, :-2])

    def missed(head: MTPHead) -> mx.array:
        once = head(tokens[:, 1:-1], hidden)
        twice = head(tokens[:, 2:-1], once[:, :-1])
        said = [(head.trunk.logits(out), tokens[:, -out.shape[1] :]) for out in (once, twice)]
        first, second = (mx.mean(nn.losses.cross_entropy(logits, wanted)) for logits, wanted in said)
        return first + second

    optimizer, gradients = optim.Adam(3e-3), nn.value_and_grad(head, missed)
    for _ in range(steps):
        _, found = gradients(head)
        optimizer.update(head, found)
        mx.eval(head.parameters(), optimizer.state)
    return head


def headed_pair(target: LoadedModel, head: MTPHead) -> Pair:
    """A pair that drafts with a head."""
    return Pair("headed", target, as_draft(target.source, Path(), head, target), byte_tokenizer())


def _outputs(model: Any) -> list[tuple[str, mx.array]]:
    """The weights by which layers add to the hidden states."""
    parameters: Any = tree_flatten(model.parameters())
    return [(name, weight) for name, weight in parameters if name.endswith(("o_proj.weight", "down_proj.weight"))]
