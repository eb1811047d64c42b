"""Tiny random models, pairs without files, and the plain loops they are held to."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.generate import generate_step
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from helix_mlx.engine.core import EngineCore
from helix_mlx.kernels.cpu.choice import NO_KERNELS, CpuKernels
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import probe
from helix_mlx.models.text.tokenizer import Tokenizer

VOCAB = 96


def random_model(family: str, seed: int = 0, **changes: Any) -> LoadedModel:
    """A model of an mlx-lm family with random float32 weights, spread so that its texts are not all alike."""
    from tests.families import FAMILIES

    return built({"model_type": family, "vocab_size": VOCAB, **FAMILIES[family], **changes}, seed)


def built(config: dict[str, Any], seed: int) -> LoadedModel:
    """A model of a configuration, with random float32 weights.

    Raises:
        ModelError: Helix does not run it.
    """
    return replace(as_loaded(untouched(config, seed), config), source=f"{config['model_type']}-{seed}")


def as_loaded(model: Any, config: dict[str, Any]) -> LoadedModel:
    """A model of mlx-lm in memory, as Helix has it.

    Raises:
        ModelError: Helix does not run it.
    """
    return LoadedModel(config["model_type"], Path(), model, config, probe(model, config), 4096)


def untouched(config: dict[str, Any], seed: int) -> Any:
    """A model as mlx-lm has it, with random float32 weights."""
    family = config["model_type"]
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(copy.deepcopy(config)))
    randomize(model, mx.random.split(mx.random.key(seed + 1), 4096))
    return model


def randomize(model: Any, keys: Iterable[mx.array]) -> None:
    """Give a module random float32 weights, each by a key of its own."""
    left = iter(keys)

    def spread(path: str, array: mx.array) -> mx.array:
        if array.ndim < 2 or array.dtype not in (mx.float32, mx.float16, mx.bfloat16):
            return array
        return mx.random.normal(array.shape, key=next(left)) * (2.0 / array.shape[-1] ** 0.5)

    model.update(tree_map_with_path(spread, model.parameters()))
    model.set_dtype(mx.float32)
    model.eval()
    mx.eval(model.parameters())


def alike(model: Any, other: Any, share: float) -> None:
    """Move a model's weights towards another's: it says something else now and then."""
    both = dict(tree_flatten(other.parameters()))

    def moved(path: str, array: mx.array) -> mx.array:
        return (1 - share) * array + share * both[path] if mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(moved, model.parameters()))
    mx.eval(model.parameters())


def byte_tokenizer(
    eos_ids: tuple[int, ...] = (), size: int = VOCAB, names: dict[int, str] | None = None, template: str = ""
) -> Tokenizer:
    """One token a printable character, ids 0 to size - 1; `names` makes whole words of some, such as "<think>"."""
    names = names or {}
    vocab = {names.get(i, chr(32 + i)): i for i in range(size)}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token=" "))
    raw.add_tokens([AddedToken(name, normalized=False) for name in names.values()])
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)
    fast.chat_template = template or (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return Tokenizer(TokenizerWrapper(fast, NaiveStreamingDetokenizer, eos_token_ids=list(eos_ids)))


def random_pair(target: str = "llama", draft: str | None = "llama", **changes: Any) -> Pair:
    """A random target, an unrelated random draft, and the character tokenizer without an end token."""
    return Pair(
        "random",
        random_model(target, 0, **changes),
        random_model(draft, 7) if draft else None,
        byte_tokenizer(),
    )


def quantized_pair(kernels: CpuKernels = NO_KERNELS) -> Pair:
    """A random pair in 4 bits, with its layers by the kernels given."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    target, draft = random_model("llama", 0, **sizes), random_model("llama", 7, **sizes)
    for loaded in (target, draft):
        assert isinstance(loaded.model, nn.Module)
        nn.quantize(loaded.model, group_size=32, bits=4)
        mx.eval(loaded.model.parameters())
    return Pair("quantized", target, draft, byte_tokenizer()).with_kernels(kernels)


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, length)]


def plain(model: Any, tokens: list[int], count: int) -> list[int]:
    """mlx-lm's own greedy text."""
    return [int(token) for token, _ in generate_step(mx.array(tokens), model, max_tokens=count)]


def address(array: mx.array) -> int:
    """Where an evaluated array's buffer lies."""
    return int(np.asarray(array).__array_interface__["data"][0])


def grow_whole(core: EngineCore) -> None:
    """Let the page pool take all that it may, before anything runs."""
    missing = core.pool.pages_most - core.pool.allocator.pages_total
    if missing:
        core.pool.grow(missing)


def pool_addresses(core: EngineCore) -> list[int]:
    """Where every array of the page pool lies."""
    return [address(a) for arrays in (core.pool.keys, core.pool.values) for layers in arrays for a in layers]
