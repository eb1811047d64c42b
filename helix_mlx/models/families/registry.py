"""The classes of mlx-lm that are given functions of Helix's own, one row each: where they are, and what gives them.

What a row leads to does as mlx-lm's own where the caches are mlx-lm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlx.nn.layers.base import Module

from helix_mlx.models.families import afm7, gpt_bigcode, llama4, minimax_m3

_PLACE = "mlx_lm.models."

CHANGES: Mapping[tuple[str, str], Callable[[Any], dict[str, Any]]] = {
    ("afm7", "AFMModel"): afm7.sharing_model,
    ("afm7", "KVReuseAttention"): afm7.reusing_attention,
    ("gpt_bigcode", "GPTBigCodeModel"): gpt_bigcode.learned_positions,
    ("llama4", "Attention"): llama4.scaled_attention,
    ("llama4", "LlamaModel"): llama4.chunked_model,
    ("minimax_m3_vl", "Attention"): minimax_m3.sparse_attention,
}


def adapt(model: object) -> None:
    """Let a model take sequences of different lengths; mlx-lm's modules and classes stay as they are.

    Done twice, it is done once.
    """
    if not isinstance(model, Module):
        return
    made: dict[type, type] = {}
    for module in model.modules():
        kind = type(module)
        change = CHANGES.get((kind.__module__.removeprefix(_PLACE), kind.__name__))
        if change is None or hasattr(kind, "takes_ragged"):
            continue
        if kind not in made:
            body = {**change(kind), "takes_ragged": True, "__module__": kind.__module__}
            made[kind] = type(kind.__name__, (kind,), body)
        module.__class__ = made[kind]
