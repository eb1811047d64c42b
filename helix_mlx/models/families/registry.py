"""The classes of mlx-lm that are given functions of Helix's own, one row each: where they are, and what gives them.

What a row leads to does as mlx-lm's own where the caches are mlx-lm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlx.nn.layers.base import Module

from helix_mlx.kernels.functions import give_functions, place
from helix_mlx.models.families import afm7, gpt_bigcode, llama4, minimax_m3

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
    if isinstance(model, Module):
        give_functions(model, lambda kind: CHANGES[place(kind)](kind) if place(kind) in CHANGES else None)
