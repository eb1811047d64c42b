"""Replaces the layers of a model that our CPU kernels support."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx.nn.layers.base import Module
from mlx.utils import tree_unflatten
from mlx_lm.models.rope_utils import Llama3RoPE
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from helix_mlx.kernels import quantized_matmul, rms_norm, rope
from helix_mlx.kernels.cpu.library import CpuLibrary

_FAST: dict[type[Module], Any] = {
    nn.QuantizedLinear: quantized_matmul.FastQuantizedLinear,
    nn.QuantizedEmbedding: quantized_matmul.FastQuantizedEmbedding,
    QuantizedSwitchLinear: quantized_matmul.FastQuantizedSwitchLinear,
    nn.RMSNorm: rms_norm.FastRMSNorm,
    nn.RoPE: rope.FastRoPE,
    Llama3RoPE: rope.FastRoPE,
}
"""The replacement for each kind of layer; its `serves` says which layers it supports."""


def replace_layers(model: Module, library: CpuLibrary) -> int:
    """Use our kernels in a model, for quantised products, norms and rotary embeddings.

    Layers are replaced in the model's module tree by layers of the same parameters; others stay as they are. Linear
    layers, embeddings and mixtures of experts of 4 or 8 bits get scales and biases in float32.

    Returns:
        How many layers our kernels serve.
    """
    made: dict[int, Module] = {}
    modules = []
    for path, layer in model.named_modules():
        kind = _FAST.get(type(layer))
        if kind is None or not kind.serves(layer):
            continue
        if id(layer) not in made:  # layers may be shared
            made[id(layer)] = kind(layer, library)
        modules.append((path, made[id(layer)]))
    model.update_modules(tree_unflatten(modules))
    return len(made)
