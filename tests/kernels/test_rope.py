"""Our rotation is MLX's, and a row's result depends on itself and its position alone."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.rope_utils import Llama3RoPE

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.rope import FastRoPE, frequencies_of, rope

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
CLOSE = {mx.float32: 2e-6, mx.float16: 4e-3, mx.bfloat16: 4e-2}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}


def normal(*shape: int, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def layers() -> dict[str, Any]:
    return {
        "whole": nn.RoPE(32),
        "part": nn.RoPE(20, base=500),
        "neighbours": nn.RoPE(32, traditional=True),
        "neighbours, part": nn.RoPE(12, traditional=True, scale=0.5),
        "scaled": nn.RoPE(32, base=1e6, scale=0.25),
        "llama 3": Llama3RoPE(32, scaling_config=LLAMA3),
    }


@pytest.mark.parametrize("offset", [0, 37, [3], [0, 11, 500]])
@pytest.mark.parametrize("kind", layers())
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_are_mlxs(cpu_library: CpuLibrary, dtype: mx.Dtype, kind: str, offset: Any) -> None:
    layer = layers()[kind]
    fast = FastRoPE(layer, cpu_library)
    if isinstance(offset, list):
        offset = mx.array(offset)
    x = normal(3, 4, 6, 32, dtype=dtype)
    ours, mlxs = fast(x, offset=offset), layer(x, offset=offset)
    assert ours.dtype == mlxs.dtype == dtype
    assert ours.shape == mlxs.shape
    assert mx.allclose(ours.astype(mx.float32), mlxs.astype(mx.float32), rtol=CLOSE[dtype], atol=CLOSE[dtype]).item()


def test_the_definition_is_the_layers(cpu_library: CpuLibrary) -> None:
    layer = nn.RoPE(32, scale=0.5)
    x, frequencies = normal(2, 3, 5, 32), frequencies_of(layer)
    assert frequencies is not None
    defined = rope(x, mx.array([4, 9]), frequencies, scale=0.5)
    mlxs = mx.fast.rope(x, 32, traditional=False, base=10000, scale=0.5, offset=mx.array([4, 9]))
    assert mx.allclose(defined, mlxs, atol=1e-5).item()
    assert mx.allclose(
        defined, rope(x, mx.array([4, 9]), frequencies, scale=0.5, library=cpu_library), atol=1e-5
    ).item()


def test_far_positions_are_as_exact_as_their_angle(cpu_library: CpuLibrary) -> None:
    """The angle is a float32, as MLX's is; what comes after it is within rounding of float64."""
    layer = nn.RoPE(64)
    frequencies = frequencies_of(layer)
    assert frequencies is not None
    x, position = normal(1, 1, 1, 64), 120_000
    angles = (np.float32(position) * np.array(frequencies)).astype(np.float64)
    one, two = np.split(np.array(x).astype(np.float64)[0, 0, 0], 2)
    exact = np.concatenate([one * np.cos(angles) - two * np.sin(angles), one * np.sin(angles) + two * np.cos(angles)])
    found = np.array(FastRoPE(layer, cpu_library)(x, offset=position))[0, 0, 0]
    assert np.abs(found - exact).max() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_whatever_is_beside_it(cpu_library: CpuLibrary, dtype: mx.Dtype) -> None:
    """Enough rows that threads share them."""
    fast = FastRoPE(nn.RoPE(64), cpu_library)
    x = normal(2, 8, 150, 64, dtype=dtype)
    together = fast(x, offset=mx.array([5, 40]))
    for sequence, start in enumerate((5, 40)):
        for row in (0, 63, 64, 149):
            alone = fast(x[sequence : sequence + 1, :, row : row + 1], offset=start + row)
            assert mx.array_equal(alone[0, :, 0], together[sequence, :, row]).item()


def test_strides_make_no_difference(cpu_library: CpuLibrary) -> None:
    fast = FastRoPE(nn.RoPE(16), cpu_library)
    x = normal(2, 3, 5, 16)
    expected = fast(x, offset=7)
    for order in ((0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 3, 2)):
        turned = mx.contiguous(x.transpose(*order)).transpose(*np.argsort(order).tolist())
        assert mx.array_equal(fast(turned, offset=7), expected).item()


def test_operands_that_do_not_fit_are_refused(cpu_library: CpuLibrary) -> None:
    x, frequencies = normal(2, 3, 5, 16), mx.ones((8,))
    for wrong in (
        {"x": normal(3, 5, 16)},
        {"x": mx.zeros((2, 3, 5, 16), mx.int32)},
        {"offset": mx.array([1, 2, 3])},
        {"frequencies": mx.ones((9,))},
        {"frequencies": mx.ones((8,), mx.float16)},
    ):
        given: dict[str, Any] = {"x": x, "offset": 0, "frequencies": frequencies, **wrong}
        with pytest.raises(ValueError, match=r"x |the |there |type"):
            rope(**given, library=cpu_library)


def test_the_layer_leaves_other_shapes_to_mlx(cpu_library: CpuLibrary) -> None:
    layer = nn.RoPE(16)
    fast = FastRoPE(layer, cpu_library)
    x = normal(3, 5, 16)
    assert mx.array_equal(fast(x, offset=2), layer(x, offset=2)).item()
    assert fast.parameters() == {}
