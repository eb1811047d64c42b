"""The two models of the built-in pair: mlx-lm's Llama at a very small size, and its checkpoints on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm.models.llama import Model, ModelArgs

from helix_mlx.convert.builtin.data.tokenizer import (
    CONTEXT,
    END,
    END_OF_TEXT,
    VOCABULARY_SIZE,
    load_tokenizer,
    special_ids,
)
from helix_mlx.files import folder_beside

# What the final weights are quantised to; training imitates it.
BITS = 4
GROUP_SIZE = 64


@dataclass(frozen=True)
class Architecture:
    """What differs between target and draft."""

    layers: int
    width: int = 256
    inner_width: int = 768
    heads: int = 4
    kv_heads: int = 2

    def config(self, eos_ids: list[int]) -> dict[str, Any]:
        """The ``config.json`` of a Llama of this size."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": self.width,
            "intermediate_size": self.inner_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.width // self.heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": CONTEXT,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": eos_ids,
        }

    def build(self) -> Model:
        """A model with small normal weights; those that write into the residual are smaller with depth."""
        config = self.config([])
        known = {name: config[name] for name in signature(ModelArgs).parameters if name in config}
        model = Model(ModelArgs(**known))
        residual = 0.02 / (2 * self.layers) ** 0.5

        def drawn(name: str, value: mx.array) -> mx.array:
            scale = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            return mx.random.normal(value.shape) * scale if value.ndim == 2 else value

        model.update(tree_map_with_path(drawn, model.parameters()))
        mx.eval(model.parameters())
        return model


def named_arrays(tree: Any) -> list[tuple[str, mx.array]]:
    """The arrays of a nested structure with their dotted names."""
    return cast("list[tuple[str, mx.array]]", tree_flatten(tree))


TARGET = Architecture(layers=8)
DRAFT = Architecture(layers=2)


def copy_ends(target: Model, draft: Model) -> None:
    """Starts the draft from the target: its embeddings, its final norm, and its first and last layers."""
    kept = [0] * (len(draft.layers) - 1) + [len(target.layers) - 1]
    draft.model.embed_tokens.update(target.model.embed_tokens.parameters())
    draft.model.norm.update(target.model.norm.parameters())
    for layer, source in zip(draft.layers, kept, strict=True):
        layer.update(target.layers[source].parameters())
    # The two must not share arrays: one is trained, the other is its teacher.
    draft.update(tree_map(mx.array, draft.parameters()))
    mx.eval(draft.parameters())


def fake_quantised(parameters: Any) -> Any:
    """The weights as 4-bit rounding will leave them, with gradients passed straight through to the float ones.

    Rounds through float16, as the saved scales are; arrays of other than two dimensions (the norms) stay as they are.
    """

    def rounded(value: mx.array) -> mx.array:
        if value.ndim != 2:
            return value
        packed = mx.quantize(mx.stop_gradient(value).astype(mx.float16), group_size=GROUP_SIZE, bits=BITS)
        restored = mx.dequantize(*packed, group_size=GROUP_SIZE, bits=BITS).astype(mx.float32)
        return value + mx.stop_gradient(restored - value)

    return tree_map(rounded, parameters)


def save_float_checkpoint(model: nn.Module, architecture: Architecture, tokenizer_folder: Path, folder: Path) -> None:
    """Writes a Hugging Face folder with float32 weights: beside the destination first, then renamed."""
    ids = special_ids(load_tokenizer(tokenizer_folder))
    eos_ids = [ids[END], ids[END_OF_TEXT]]
    generation = {"eos_token_id": eos_ids, "pad_token_id": ids[END_OF_TEXT], "do_sample": False}
    with folder_beside(folder, replace=True) as beside:
        weights = dict(named_arrays(model.parameters()))
        mx.save_safetensors(str(beside / "model.safetensors"), weights, metadata={"format": "mlx"})
        for name, data in (("config.json", architecture.config(eos_ids)), ("generation_config.json", generation)):
            (beside / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer_folder / name, beside / name)


def average_checkpoints(first: Path, second: Path, folder: Path) -> None:
    """Writes the mean of two float checkpoints of one architecture: beside the destination first, then renamed."""
    with folder_beside(folder, replace=True) as beside:
        shutil.copytree(first, beside, dirs_exist_ok=True)
        weights, others = (
            cast("dict[str, mx.array]", mx.load(str(it / "model.safetensors"))) for it in (first, second)
        )
        mean = {name: (value + others[name]) / 2 for name, value in weights.items()}
        mx.save_safetensors(str(beside / "model.safetensors"), mean, metadata={"format": "mlx"})


def load_float_checkpoint(architecture: Architecture, folder: Path) -> Model:
    """The model saved by :func:`save_float_checkpoint`."""
    model = architecture.build()
    model.load_weights(str(folder / "model.safetensors"))
    mx.eval(model.parameters())
    return model
