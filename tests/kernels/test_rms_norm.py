"""Our norm is MLX's, and a row's result never depends on the other rows."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.rms_norm import FastRMSNorm, rms_norm

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
CLOSE = {mx.float32: 1e-6, mx.float16: 2e-3, mx.bfloat16: 2e-2}
EPS = 1e-5


def normal(*shape: int, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


@pytest.mark.parametrize("size", [1, 7, 16, 64, 300, 2048])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_mlxs(cpu_library: CpuLibrary, dtype: mx.Dtype, size: int) -> None:
    x, weight = normal(3, 5, size, dtype=dtype) * 3, 1 + normal(size, seed=1, dtype=dtype) / 8
    ours, mlxs = rms_norm(x, weight, EPS, cpu_library), rms_norm(x, weight, EPS)
    assert ours.dtype == mlxs.dtype == dtype
    assert ours.shape == x.shape
    assert mx.allclose(ours.astype(mx.float32), mlxs.astype(mx.float32), rtol=CLOSE[dtype], atol=CLOSE[dtype]).item()


def test_it_is_within_rounding_of_float64(cpu_library: CpuLibrary) -> None:
    x, weight = normal(40, 2048) + 4, normal(2048, seed=1)
    wide = np.array(x).astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPS) * np.array(weight).astype(np.float64)
    assert np.abs(np.array(rms_norm(x, weight, EPS, cpu_library)) - exact).max() < 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_whatever_rows_are_beside_it(cpu_library: CpuLibrary, dtype: mx.Dtype) -> None:
    """Enough rows that threads share them."""
    x, weight = normal(200, 515, dtype=dtype), normal(515, seed=1, dtype=dtype)
    together = rms_norm(x, weight, EPS, cpu_library)
    for row in (0, 63, 64, 199):
        assert mx.array_equal(rms_norm(x[row : row + 1], weight, EPS, cpu_library)[0], together[row]).item()


def test_strides_make_no_difference(cpu_library: CpuLibrary) -> None:
    x, weight = normal(6, 10, 37), normal(37, seed=1)
    dense = rms_norm(x, weight, EPS, cpu_library)
    turned = mx.contiguous(x.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert mx.array_equal(rms_norm(turned, weight, EPS, cpu_library), dense).item()
    wider = mx.concatenate([x, x], axis=1)[:, 2:12:1]
    rolled = mx.concatenate([x[:, 2:], x[:, :2]], axis=1)
    assert mx.array_equal(rms_norm(wider, weight, EPS, cpu_library), rms_norm(rolled, weight, EPS, cpu_library)).item()


def test_operands_that_do_not_fit_are_refused(cpu_library: CpuLibrary) -> None:
    for x, weight in (
        (normal(2, 8), normal(7)),
        (normal(2, 8), normal(1, 8)),
        (normal(2, 8), normal(8, dtype=mx.float16)),
        (mx.zeros((2, 8), mx.int32), mx.zeros((8,), mx.int32)),
    ):
        with pytest.raises(ValueError, match=r"x |the |there |type"):
            rms_norm(x, weight, EPS, cpu_library)


def test_the_layer_keeps_its_parameters_and_leaves_other_types_to_mlx(cpu_library: CpuLibrary) -> None:
    layer = nn.RMSNorm(24, eps=1e-3)
    layer.weight = normal(24, seed=2)
    fast = FastRMSNorm(layer, cpu_library)
    assert list(fast.parameters()) == ["weight"]
    for dtype in DTYPES:
        x = normal(4, 24, dtype=dtype)
        assert fast(x).dtype == layer(x).dtype
        assert mx.allclose(fast(x), layer(x), rtol=1e-5, atol=1e-5).item()
