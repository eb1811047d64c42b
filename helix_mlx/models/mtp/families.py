"""Which families have a multi-token-prediction head that Helix knows, and how their checkpoints name its weights.

In a head as `MTPHead` has it, and in the file `mtp.safetensors` that `convert` writes, the names are those of Qwen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LAYER = "layers.0."
_NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")


@dataclass(frozen=True)
class Family:
    """How a family's checkpoints hold a head.

    Args:
        prefix: of its weights' names; `{layers}` is the target's number of layers.
        names: what is called otherwise there; everything else is of the decoder layer.
        one_layer: settings by which a model of one layer has that of a head: with full attention, and with experts
            where there are any.
        hidden_first: the projection reads the hidden state before the embedding.
        zero_centred: the original checkpoints keep norms less one.
    """

    prefix: str = "mtp."
    names: Mapping[str, str] = field(default_factory=dict, hash=False)
    one_layer: Mapping[str, Any] = field(default_factory=dict, hash=False)
    hidden_first: bool = False
    zero_centred: bool = False

    def own_name(self, name: str, layers: int) -> str | None:
        """A checkpoint's name of a weight as a head has it; None where it is none of a head's.

        Args:
            name: as in the file.
            layers: of the target.
        """
        if found := _KEPT.match(name):
            name = name[found.end() :]
        else:
            prefix = self.prefix.format(layers=layers)
            if self.prefix == "mtp." or not name.startswith(prefix):
                return None
            name = name[len(prefix) :]
            outer = next((each for each in self.names if name.startswith(f"{each}.")), None)
            name = f"{LAYER}{name}" if outer is None else f"{self.names[outer]}{name[len(outer) :]}"
        return None if _SHARED.search(name) else name


_KEPT = re.compile(r"(?:model\.)?(?:language_model\.)?mtp\.")
_SHARED = re.compile(r"(?:^|\.)(?:embed_tokens|shared_head|lm_head|rotary_emb)\.|^layers\.[1-9]")
"""What a head shares with its target, of which some checkpoints hold a copy; and heads behind the first."""

PLAIN = Family()
QWEN = Family(one_layer={"full_attention_interval": 1, "mlp_only_layers": []}, zero_centred=True)
DEEPSEEK = Family(
    "model.layers.{layers}.",
    {
        "enorm": "pre_fc_norm_embedding",
        "hnorm": "pre_fc_norm_hidden",
        "eh_proj": "fc",
        "shared_head.norm": "norm",
        "shared_head.head": "lm_head",
        "embed_tokens": "embed_tokens",
    },
    {"first_k_dense_replace": 0},
)
MIMO = Family(
    "model.mtp_layers.0.",
    {
        "token_layernorm": "pre_fc_norm_embedding",
        "hidden_layernorm": "pre_fc_norm_hidden",
        "input_proj": "fc",
        "final_layernorm": "norm",
    },
    hidden_first=True,
)

FAMILIES: Mapping[str, Family] = {
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": DEEPSEEK,
    "glm4_moe_lite": DEEPSEEK,
    "llama": PLAIN,
    "mimo": MIMO,
    "qwen3": PLAIN,
    "qwen3_5": QWEN,
    "qwen3_5_moe": QWEN,
    "qwen3_5_text": QWEN,
    "qwen3_next": QWEN,
}
"""By mlx-lm's file of the target. Families without published heads are here for heads that were trained with Helix."""


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the language model, which may lie within those of one that also sees."""
    return dict(config.get("text_config") or config)


def one_layer_config(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A target's configuration for a model that has the layer of a head, and no other one."""
    changed = {"num_hidden_layers": 1, "layer_types": ["full_attention"], **family.one_layer}
    if config.get("text_config"):
        return {**config, "text_config": {**config["text_config"], **changed}}
    return {**config, **changed}


def is_norm(name: str) -> bool:
    """Whether a head's weight is one that zero-centred checkpoints keep less one."""
    return name.endswith("norm.weight") or name.rsplit(".", 1)[0] in _NORMS
