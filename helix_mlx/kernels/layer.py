"""Shared helpers of the layers that replace MLX's."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from helix_mlx.kernels.cpu.library import CpuLibrary

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
"""The dtypes that our kernels support."""


def take_over(new: Any, layer: Module, library: CpuLibrary) -> None:
    """Copy a layer's parameters into its replacement, and attach the kernels."""
    Module.__init__(new)
    vars(new).update(vars(layer))
    dict.update(new, layer)
    new._library = library
