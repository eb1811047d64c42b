"""What a layer by our kernels takes over from the layer of MLX that it stands for."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from helix_mlx.kernels.cpu.library import CpuLibrary

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
"""The types of rows that our kernels know."""


def take_over(new: Any, layer: Module, library: CpuLibrary) -> None:
    """Make a new layer what another one is, with the kernels beside its parameters."""
    Module.__init__(new)
    vars(new).update(vars(layer))
    dict.update(new, layer)
    new._library = library
