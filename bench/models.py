"""Pairs made in memory for measurements: random weights, any width and context, a token a character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models import llama
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helix_mlx.kernels.cpu_kernels import choose_kernels
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.pair import Pair
from helix_mlx.models.probe import probe
from helix_mlx.models.tokenizer import Tokenizer

FIRST_CHARACTER, MANY_CHARACTERS = 0x4E00, 0x20000
"""Thousands of characters follow the one, and hundreds of thousands the other, each one token."""


def random_llama(seed: int, *, quantized: bool = False, **changes: Any) -> LoadedModel:
    """A Llama with random float32 weights, or 4-bit ones with float32 scales.

    Args:
        seed: of the weights.
        quantized: 4 bits in groups of 64, as the built-in pair has them.
        changes: of the configuration, a small one.
    """
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        **changes,
    }
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))

    def spread(array: Any) -> Any:
        return array if array.ndim < 2 else mx.random.normal(array.shape) * (2.0 / array.shape[-1] ** 0.5)

    model.update(tree_map(spread, model.parameters()))
    if quantized:
        nn.quantize(model, group_size=64, bits=4)
    model.eval()
    mx.eval(model.parameters())
    layers, width = probe(model, config)
    return LoadedModel(f"random-llama-{seed}", Path(), model, config, layers, width, config["max_position_embeddings"])


def character_tokenizer(size: int) -> Tokenizer:
    """One token a character, ids 0 to size - 1; no token ends an answer."""
    first = FIRST_CHARACTER if size <= 20_000 else MANY_CHARACTERS
    raw = RawTokenizer(models.WordLevel({chr(first + i): i for i in range(size)}, unk_token=chr(first)))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)
    return Tokenizer(TokenizerWrapper(fast, NaiveStreamingDetokenizer, eos_token_ids=[]))


def pair_of(target: LoadedModel, draft: LoadedModel | None, kernels: str = "auto") -> Pair:
    """A pair of random models, with the kernels that an engine would choose.

    Args:
        target, draft: models of equal vocabulary; they are changed for good where kernels are used.
        kernels: "auto", "on" or "off".
    """
    pair = Pair("random", target, draft, character_tokenizer(target.vocab_size))
    return pair.with_kernels(choose_kernels(kernels))


def small_pair(context: int, *, draft: bool = True) -> Pair:
    """A random pair that reads long prompts fast; its draft and its target agree by chance alone."""
    target = random_llama(
        0, quantized=True, hidden_size=256, intermediate_size=512, max_position_embeddings=context,
        num_hidden_layers=4,
    )  # fmt: skip
    made = random_llama(1, quantized=True, num_hidden_layers=1, max_position_embeddings=context) if draft else None
    return pair_of(target, made)
