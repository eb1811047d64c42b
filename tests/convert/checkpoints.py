"""Tiny random checkpoints in the Hugging Face layout: several files, experts one by one, a tokenizer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.families import FAMILIES
from tests.support import VOCAB, random_model

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def write_checkpoint(
    folder: Path,
    family: str = "llama",
    *,
    shards: int = 1,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A random model of a family as the hub has it.

    Args:
        folder: is made.
        family: of tests.families.
        shards: files that the weights are spread over.
        seed: of the weights.
        changes: of its configuration.
    """
    settings = {**SIZES, **changes}
    loaded = random_model(family, seed, **settings)
    model: Any = loaded.model
    weights: dict[str, mx.array] = {}
    leaves: Any = tree_flatten(model.parameters())
    for name, array in leaves:
        weights.update(_apart(family, name, array.astype(mx.bfloat16)))
    folder.mkdir(parents=True)
    names = list(weights)
    index = {}
    for number in range(shards):
        part = {name: weights[name] for name in names[number::shards]}
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        mx.save_safetensors(str(folder / file), part, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {"model_type": family, "vocab_size": VOCAB, **FAMILIES[family], **settings}
    config["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, first: int = 32) -> None:
    """A token a character, from character `first` on."""
    vocab = {chr(first + i): i for i in range(VOCAB)}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token=chr(first)))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False).save_pretrained(str(folder))


def _apart(family: str, name: str, array: mx.array) -> dict[str, mx.array]:
    """The experts of a layer, which MLX has in one array, as the hub has them."""
    found = re.fullmatch(r"(.*)\.switch_mlp\.(\w+)\.weight", name)
    if found is None:
        return {name: array}
    place, projection = found.groups()
    projection = _MIXTRAL[projection] if family == "mixtral" else projection
    return {f"{place}.experts.{expert}.{projection}.weight": array[expert] for expert in range(array.shape[0])}
