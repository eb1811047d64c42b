"""The architectures of GGUF files that Helix knows: their settings as a config.json, and their tensors' names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helix_mlx.errors import ModelError, did_you_mean
from helix_mlx.models.gguf.file import GgufFile

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor with which Llama 3.1 and later say how far their rope is stretched."""
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_LAYER = {
    **_LAYER, **_QK_NORMS, "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all of Llama 3.1, 3.2 and 3.3 have in common; the file has only what comes of it."""
_GEMMA_27B_LAYERS = 62
"""The one size of Gemma 3 that scales its queries otherwise; the files do not say so."""


@dataclass(frozen=True)
class Architecture:
    """How a model of GGUF becomes one of mlx-lm.

    Args:
        model_type: mlx-lm's name of it.
        layer: the names of a layer's tensors, and those in mlx-lm.
        more: adds to the settings that all of them have, in place.
        interleaved: whether rows of queries and keys are in the order of GGUF's llama: the halves that a rope turns
            together stand side by side in each head, and not one half after the other.
        norm_offset: what GGUF has added to the weights of norms.
        dtype: the type of floats on a device that computes in 16 bits.
    """

    model_type: str
    layer: Mapping[str, str]
    more: Callable[[GgufFile, dict[str, Any]], None]
    interleaved: bool = False
    norm_offset: float = 0.0
    dtype: str = "bfloat16"

    def name(self, tensor: str) -> str | None:
        """The name in mlx-lm, such as `model.layers.0.mlp.up_proj.weight`, of a tensor; None for an unknown one."""
        parts = tensor.split(".")
        kind = parts[-1]
        if kind not in ("weight", "bias"):
            return None
        if len(parts) == 2 and parts[0] in _TOP:
            return f"{_TOP[parts[0]]}.{kind}"
        if len(parts) == 4 and parts[0] == "blk" and parts[1].isdecimal() and parts[2] in self.layer:
            return f"model.layers.{parts[1]}.{self.layer[parts[2]]}.{kind}"
        return None

    def row_order(self, tensor: str, config: Mapping[str, Any]) -> NDArray[np.intp] | None:
        """The order that the rows of a tensor have in mlx-lm; None where it is the same."""
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(tensor.split(".")[-2])
        if not self.interleaved or heads is None:
            return None
        rows = np.arange(config[heads] * config["head_dim"], dtype=np.intp)
        return rows.reshape(config[heads], -1, 2).swapaxes(1, 2).reshape(-1)


def architecture_of(file: GgufFile) -> Architecture:
    """The architecture of a file.

    Raises:
        ModelError: it is none that Helix knows.
    """
    name = file.architecture
    if name not in _ARCHITECTURES:
        raise ModelError(
            f"{file.path} is of the architecture {name!r}{did_you_mean(name, _ARCHITECTURES)}, and Helix reads only "
            f"{', '.join(_ARCHITECTURES)} from GGUF files; choose an MLX version of the model"
        )
    return _ARCHITECTURES[name]


def config_of(file: GgufFile) -> dict[str, Any]:
    """The config.json of a model, without its quantisation and its end tokens.

    Raises:
        ModelError: a setting is missing, or is of a kind that Helix does not know.
    """
    known = architecture_of(file)
    hidden, heads = file.setting("embedding_length", int), file.setting("attention.head_count", int)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.path} has no token_embd.weight; download another version of the model")
    config = {
        "model_type": known.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": file.setting("block_count", int),
        "intermediate_size": file.setting("feed_forward_length", int),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("attention.head_count_kv", int, heads),
        "head_dim": file.setting("attention.key_length", int, hidden // max(heads, 1)),
        "rms_norm_eps": _short(file.setting("attention.layer_norm_rms_epsilon", float)),
        "vocab_size": int(embedding.shape[1]),
        "max_position_embeddings": file.setting("context_length", int),
        "rope_theta": _short(file.setting("rope.freq_base", float, 10000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": known.dtype,
    }
    turned = file.setting("rope.dimension_count", int, config["head_dim"])
    if turned != config["head_dim"]:
        raise _unsupported(file, f"turns {turned} of {config['head_dim']} dimensions of a head")
    if (experts := file.setting("expert_count", int, 0)) > 0:
        raise _unsupported(file, f"is a mixture of {experts} experts")
    if (scaling := _rope_scaling(file)) is not None:
        config["rope_scaling"] = scaling
    known.more(file, config)
    return config


def _llama(file: GgufFile, config: dict[str, Any]) -> None:
    config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    factors = file.tensors.get(ROPE_FACTORS)
    if factors is not None:
        config["rope_scaling"] = _llama3_scaling(file, np.asarray(factors.data, np.float64), config)


def _qwen2(file: GgufFile, config: dict[str, Any]) -> None:
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise _unsupported(file, f"has heads of {config['head_dim']} dimensions")


def _qwen3(file: GgufFile, config: dict[str, Any]) -> None:
    """All that it has is named alike."""


def _gemma3(file: GgufFile, config: dict[str, Any]) -> None:
    large = config["num_hidden_layers"] == _GEMMA_27B_LAYERS
    width = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    config |= {
        "rope_theta": _short(file.setting("rope.freq_base", float, 1_000_000.0)),
        "rope_local_base_freq": _short(file.setting("rope.freq_base_swa", float, 10000.0)),
        "query_pre_attn_scalar": width,
        "sliding_window": file.setting("attention.sliding_window", int),
        "sliding_window_pattern": file.setting("attention.sliding_window_pattern", int, 6),
    }


_ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", _LAYER, _llama, interleaved=True, dtype="float16"),
    "qwen2": Architecture("qwen2", _LAYER, _qwen2),
    "qwen3": Architecture("qwen3", {**_LAYER, **_QK_NORMS}, _qwen3),
    "gemma3": Architecture("gemma3_text", _GEMMA_LAYER, _gemma3, norm_offset=1.0),
}


def _rope_scaling(file: GgufFile) -> dict[str, Any] | None:
    kind = file.setting("rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise _unsupported(file, f"scales its rope by {kind!r}")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": _short(file.setting("rope.scaling.factor", float))}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = file.setting("rope.scaling.original_context_length", int)
    return scaling


def _llama3_scaling(file: GgufFile, factors: NDArray[np.float64], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make these factors of the frequencies of a head's rope."""
    low, high, original = _LLAMA3.values()
    largest = _short(float(factors.max()))
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(len(factors)) / len(factors))
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    if len(factors) * 2 != config["head_dim"] or not np.allclose(1 / factors, (1 - smooth) / largest + smooth, 1e-4):
        raise _unsupported(file, "stretches its rope otherwise than Llama 3")
    return {"rope_type": "llama3", "factor": largest, **_LLAMA3}


def _unsupported(file: GgufFile, what: str) -> ModelError:
    return ModelError(f"the model in {file.path} {what}, which Helix does not read from GGUF files; choose another")


def _short(value: float) -> float:
    """A float32 as the shortest number that is it: 1e-05, and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
