"""What MLX computes with a converted file is what stands in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf.quants import dequantize

from helix_mlx.models.gguf.architecture import architecture_of
from helix_mlx.models.gguf.file import read_gguf
from helix_mlx.models.gguf.folder import gguf_folder
from helix_mlx.models.gguf.quantization import is_exact
from helix_mlx.models.loader import read_model
from tests.real.reference import Floats, Reference

TOKENS = [504, 3575, 282, 4649, 314, 7042]


class QuantisedAgain:
    """The weights of a converted file that are not quite those of the file itself."""

    def __init__(self, path: Path) -> None:
        self._arrays: Any = mx.load(str(gguf_folder(path) / "model.safetensors"))
        self._file = read_gguf([path])
        self.names: set[str] = set()

    def __call__(self, name: str) -> Floats | None:
        tensor = self._file.tensors[name]
        if is_exact(tensor.tensor_type.name):
            return None
        layer = (architecture_of(self._file).name(name) or "").removesuffix(".weight")
        weight, scales, biases = (self._arrays[f"{layer}.{part}"] for part in ("weight", "scales", "biases"))
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)  # as the model has them on a CPU
        found: Floats = np.array(mx.dequantize(weight, scales, biases, 32, 8))
        if name not in self.names:
            self.names.add(name)
            meant = dequantize(tensor.data, tensor.tensor_type)
            assert np.abs(found - meant).max() < np.abs(meant).max() / 100
        return found


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_logits_are_those_of_the_weights_in_the_file(request: pytest.FixtureRequest, name: str) -> None:
    path: Path = request.getfixturevalue(name)
    model, _ = read_model(gguf_folder(path))
    model.set_dtype(mx.float32)
    found: Any = np.array(model(mx.array([TOKENS]))[0])
    again = QuantisedAgain(path)
    expected = Reference(path, again).logits(TOKENS)
    assert bool(again.names) == (name == "gemma")  # its Q6_K
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).all()
