"""Pairs with random weights of real shapes, and an acceptance that is dialled: for machines with no model on disk.

Every layer has its full size and is fully computed, but adds next to nothing to what runs through it, so that the last
layer sees the embedding of the last token. The output head's rows are the embeddings in another order: after token t
the target's best token is f(t), for a permutation f that goes through all tokens before it repeats one. The draft has
embeddings of its own, and a head in the order of f but for a share of the tokens, for which it is another. So each
draft is the target's own choice with the chance that was asked for, whatever came before. The text means nothing and
repeats nothing, and every choice is a clear one, so that temperatures up to 1 change next to nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models import llama

from helix_mlx.bench.models import character_tokenizer
from helix_mlx.bench.prompts import SYNTHETIC
from helix_mlx.errors import SettingsError
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import probe

SHAPES: dict[str, dict[str, int]] = {
    "llama-8b": {"hidden": 4096, "layers": 32, "mlp": 14336, "heads": 32, "kv_heads": 8},
    "llama-3b": {"hidden": 3072, "layers": 28, "mlp": 8192, "heads": 24, "kv_heads": 8},
    "llama-1b": {"hidden": 2048, "layers": 16, "mlp": 8192, "heads": 32, "kv_heads": 8},
    "tinyllama": {"hidden": 2048, "layers": 22, "mlp": 5632, "heads": 32, "kv_heads": 4},
    "160m": {"hidden": 768, "layers": 12, "mlp": 3072, "heads": 12, "kv_heads": 12},
    "68m": {"hidden": 768, "layers": 2, "mlp": 3072, "heads": 12, "kv_heads": 12},
    "small": {"hidden": 128, "layers": 2, "mlp": 256, "heads": 4, "kv_heads": 2},
    "smaller": {"hidden": 64, "layers": 1, "mlp": 128, "heads": 2, "kv_heads": 2},
}
VOCABULARIES = {"llama-8b": 128256, "llama-3b": 128256, "llama-1b": 128256, "small": 512, "smaller": 512}
"""By the target's shape; 32,000 for the others."""
CONTEXT = 4096
BITS, GROUP_SIZE = 4, 64
QUIET = 1e-3
"""What the layers' outputs are scaled by, so that they leave the embedding as it is."""


def synthetic_pair(name: str, acceptance: float, seed: int = 0) -> Pair:
    """A pair of two shapes, without kernels.

    Args:
        name: "TARGET/DRAFT", both of SHAPES.
        acceptance: the chance that a draft is kept, 0 to 1.
        seed: of the weights.

    Raises:
        SettingsError: a shape is unknown, or the acceptance out of range.
    """
    shapes = re.fullmatch(r"([\w-]+)/([\w-]+)", name)
    if shapes is None or not {*shapes.groups()} <= SHAPES.keys():
        raise SettingsError(f"synthetic is {name}, but has to be TARGET/DRAFT, both of {', '.join(SHAPES)}")
    if not 0 <= acceptance <= 1:
        raise SettingsError(f"acceptance is {acceptance}, but has to be between 0 and 1")
    target, draft = shapes.groups()
    size = VOCABULARIES.get(target, 32_000)
    follows, drafted = successors(size, acceptance, seed)
    return Pair(
        f"synthetic {name}, acceptance {acceptance:g}",
        _model(target, follows, seed),
        _model(draft, drafted, seed + 1),
        character_tokenizer(size),
    )


def described(name: str, acceptance: float) -> str:
    """What a receipt and a picture say of such a pair."""
    return (
        f"random weights of the shapes {name}; after each token the target's choice is fixed, and the draft agrees "
        f"for {acceptance:.0%} of the tokens: speed is real, text and acceptance are made up"
    )


def successors(size: int, acceptance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The token after each token, by the target and by the draft: [size] int64 each, both permutations.

    The target's is a single cycle through all tokens.
    """
    draws = np.random.default_rng(seed)
    order = draws.permutation(size)
    follows = np.empty(size, np.int64)
    follows[order] = np.roll(order, -1)
    drafted = follows.copy()
    others = draws.permutation(size)[: round((1 - acceptance) * size)]
    if len(others) > 1:
        drafted[others] = follows[np.roll(others, 1)]
    return follows, drafted


def _model(shape: str, follows: np.ndarray, seed: int) -> LoadedModel:
    """A 4-bit Llama whose best token after t is `follows[t]`."""
    sizes = SHAPES[shape]
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "intermediate_size": sizes["mlp"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "rms_norm_eps": 1e-5,
        "vocab_size": len(follows),
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
    mx.random.seed(seed)
    # MLX's CPU backend is slow with half-precision scales; a Mac's GPU has them in all its models.
    dtype = mx.float16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32
    model = llama.Model(llama.ModelArgs.from_dict(config))

    def random(path: str, array: Any) -> Any:
        if array.ndim < 2:
            return mx.ones(array.shape, dtype)
        scale = QUIET if path.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        return (mx.random.normal(array.shape) * (scale / array.shape[-1] ** 0.5)).astype(dtype)

    model.update(tree_map_with_path(random, model.parameters()))
    embeddings = mx.random.normal((len(follows), sizes["hidden"])).astype(dtype)
    model.model.embed_tokens.weight = embeddings
    model.lm_head.weight = embeddings[mx.array(np.argsort(follows))]
    del embeddings
    nn.quantize(model, group_size=GROUP_SIZE, bits=BITS)
    model.eval()
    leaves: Any = tree_flatten(model.parameters())
    for _, array in leaves:
        mx.eval(array)  # one after the other: all of them before quantising would not fit
    layers, width = probe(model, config)
    config["quantization"] = {"bits": BITS, "group_size": GROUP_SIZE}
    return LoadedModel(f"{SYNTHETIC}{shape}", Path(), model, config, layers, width, CONTEXT)
