"""The product with quantised weights: as exact as MLX's own, and a row's result never depends on the other rows."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from helix_mlx.kernels.cpu.build import FORMS
from helix_mlx.kernels.cpu.layers import replace_layers
from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.quantized_matmul import (
    BITS,
    GROUP_SIZES,
    FastQuantizedEmbedding,
    FastQuantizedLinear,
    FastQuantizedSwitchLinear,
    embedding,
    quantized_matmul,
)

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
INPUTS, OUTPUTS = 1536, 53
"""More inputs than one pass keeps in the nearest cache for many rows; outputs that no tile divides."""

Quantized = tuple[mx.array, mx.array, mx.array]


@pytest.fixture(params=list(FORMS.get(platform.machine().lower(), ("portable",))))
def library(cpu_library: CpuLibrary, request: pytest.FixtureRequest) -> Iterator[CpuLibrary]:
    """The library in each form that this processor runs."""
    if not cpu_library.module.set_isa(request.param):
        pytest.skip(f"this processor does not run {request.param}")
    yield cpu_library
    cpu_library.module.set_isa("auto")


def normal(*shape: int, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def quantized(group_size: int, bits: int, outputs: int = OUTPUTS, inputs: int = INPUTS) -> Quantized:
    codes, scales, biases = mx.quantize(normal(outputs, inputs, seed=1), group_size, bits)
    return codes, scales, biases


def doubles(array: mx.array) -> npt.NDArray[np.float64]:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def exact(x: mx.array, weights: Quantized, group_size: int, bits: int) -> npt.NDArray[np.float64]:
    """The product in float64, from the codes themselves."""
    codes, scales, biases = (np.array(a.astype(mx.float32) if a.dtype != mx.uint32 else a) for a in weights)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    values = (codes[..., None] >> shifts & (2**bits - 1)).reshape(codes.shape[0], -1).astype(np.float64)
    matrix = values * scales.astype(np.float64).repeat(group_size, 1) + biases.astype(np.float64).repeat(group_size, 1)
    return np.asarray(doubles(x) @ matrix.T)


@pytest.mark.parametrize(("dtype", "mean"), [(mx.float32, 0), (mx.float32, 4), (mx.float16, 0), (mx.bfloat16, 0)])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_errors_are_no_larger_than_mlxs(
    library: CpuLibrary, bits: int, group_size: int, dtype: mx.Dtype, mean: float
) -> None:
    """Scales are in x's dtype for MLX, so that both round their result to it; ours are the same numbers."""
    weights = quantized(group_size, bits)
    narrow = (weights[0], weights[1].astype(dtype), weights[2].astype(dtype))
    wide = (narrow[0], narrow[1].astype(mx.float32), narrow[2].astype(mx.float32))
    x = normal(24, INPUTS, dtype=dtype) + mean
    truth = exact(x, narrow, group_size, bits)
    ours = quantized_matmul(x, *wide, group_size, bits, library)
    mlxs = quantized_matmul(x, *narrow, group_size, bits)
    assert ours.dtype == mlxs.dtype == dtype
    error, allowed = (np.sqrt(np.mean((doubles(y) - truth) ** 2)) for y in (ours, mlxs))
    assert error <= allowed * 1.001
    assert np.abs(doubles(ours) - truth).max() <= np.abs(doubles(mlxs) - truth).max() * 1.5


@pytest.mark.parametrize("mean", [0, 4])
@pytest.mark.parametrize("inputs", [128, 256, 512])
def test_errors_are_no_larger_than_mlxs_for_few_inputs(library: CpuLibrary, inputs: int, mean: float) -> None:
    weights = quantized(64, 4, outputs=500, inputs=inputs)
    x = normal(24, inputs) + mean
    truth = exact(x, weights, 64, 4)
    error, allowed = (
        np.sqrt(np.mean((doubles(quantized_matmul(x, *weights, 64, 4, which)) - truth) ** 2))
        for which in (library, None)
    )
    assert error <= allowed * 1.001


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_a_row_is_bitwise_the_same_for_any_number_of_rows(library: CpuLibrary, bits: int, group_size: int) -> None:
    weights = quantized(group_size, bits)
    x = normal(33, INPUTS)
    single = mx.concatenate([quantized_matmul(x[i : i + 1], *weights, group_size, bits, library) for i in range(33)])
    for rows in (*range(1, 17), 33):
        assert mx.array_equal(quantized_matmul(x[:rows], *weights, group_size, bits, library), single[:rows]), rows


def test_threads_make_no_difference(cpu_library: CpuLibrary) -> None:
    weights, x = quantized(64, 4, outputs=1000), normal(5, INPUTS)
    results = []
    for threads in (1, 2, 3, 7, None):
        cpu_library.set_threads(threads)
        results.append(quantized_matmul(x, *weights, 64, 4, cpu_library))
        mx.eval(results[-1])
    assert all(mx.array_equal(result, results[0]) for result in results)


def strided(kind: str, dtype: mx.Dtype) -> mx.array:
    """Rows of INPUTS numbers that do not lie one after the other."""
    match kind:
        case "every second row":
            return normal(6, INPUTS, dtype=dtype)[::2]
        case "part of a wider row":
            return normal(3, INPUTS + 7, dtype=dtype)[:, 5 : 5 + INPUTS]
        case "transposed":
            return normal(INPUTS, 3, dtype=dtype).T
        case "heads in the middle":
            return normal(2, 3, 4, INPUTS, dtype=dtype).swapaxes(1, 2)
        case "repeated":
            return mx.broadcast_to(normal(1, INPUTS, dtype=dtype), (4, INPUTS))
        case "backwards":
            return normal(3, INPUTS, dtype=dtype)[:, ::-1]
        case _:
            return normal(2, 1, 3, INPUTS, dtype=dtype)


KINDS = (
    "every second row",
    "part of a wider row",
    "transposed",
    "heads in the middle",
    "repeated",
    "backwards",
    "batched",
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_x_may_lie_anyhow(cpu_library: CpuLibrary, kind: str, dtype: mx.Dtype) -> None:
    weights = quantized(64, 4)
    x = strided(kind, dtype)
    dense = mx.contiguous(x + 0).reshape(-1, INPUTS)
    y = quantized_matmul(x, *weights, 64, 4, cpu_library)
    assert y.shape == (*x.shape[:-1], OUTPUTS)
    assert mx.array_equal(y.reshape(-1, OUTPUTS), quantized_matmul(dense, *weights, 64, 4, cpu_library))


def test_no_rows_and_one_vector(cpu_library: CpuLibrary) -> None:
    weights = quantized(64, 4)
    assert quantized_matmul(mx.zeros((0, INPUTS)), *weights, 64, 4, cpu_library).shape == (0, OUTPUTS)
    x = normal(INPUTS)
    y = quantized_matmul(x, *weights, 64, 4, cpu_library)
    assert mx.array_equal(y, quantized_matmul(x[None], *weights, 64, 4, cpu_library)[0])


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e-7, 65504.0, 3e38])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unusual_numbers_come_through(library: CpuLibrary, dtype: mx.Dtype, value: float) -> None:
    """One input that is not zero, against weights that are one or nothing: the result is that input."""
    weights = mx.quantize(mx.concatenate([mx.ones((1, 64)), mx.zeros((1, 64))]), 64, 4)
    x = mx.zeros((1, 64), dtype)
    x[0, 3] = value
    y = quantized_matmul(x, *weights, 64, 4, library)
    assert mx.array_equal(y[0, 0], x[0, 3], equal_nan=True)


@pytest.mark.parametrize(("dtype", "value"), [*((d, v) for d in DTYPES for v in (1e-7, 65504.0)), (DTYPES[0], 3e38)])
def test_large_and_small_numbers_come_through(library: CpuLibrary, dtype: mx.Dtype, value: float) -> None:
    """The same where there are many inputs, with no overflow inside."""
    weights = mx.quantize(mx.ones((1, INPUTS)), 64, 4)
    x = mx.zeros((1, INPUTS), dtype)
    x[0, 3] = value
    y = quantized_matmul(x, *weights, 64, 4, library)
    assert mx.allclose(y[0, 0], x[0, 3], rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_a_number_shows(library: CpuLibrary, dtype: mx.Dtype, value: float) -> None:
    """An input that is infinite, or no number, makes no finite result."""
    weights = mx.quantize(normal(3, INPUTS), 64, 4)
    x = normal(2, INPUTS, dtype=dtype)
    x[0, 3] = value
    y = quantized_matmul(x, *weights, 64, 4, library)
    assert mx.isfinite(y).tolist() == [[False] * 3, [True] * 3]


def test_it_is_lazy_and_can_be_traced(cpu_library: CpuLibrary) -> None:
    weights, x = quantized(64, 4), normal(3, INPUTS)

    def chain(x: mx.array) -> mx.array:
        y = quantized_matmul(mx.tanh(x), *weights, 64, 4, cpu_library)
        return mx.softmax(y + 1, axis=-1)

    assert mx.array_equal(mx.compile(chain)(x), chain(x))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": mx.zeros((1, 63))}, "sizes"),
        ({"x": mx.zeros((1, 64), mx.int32)}, "neither float32"),
        ({"scales": mx.zeros((8, 1), mx.float16)}, "float32"),
        ({"biases": mx.zeros((8, 2))}, "belong together"),
        ({"weight": mx.zeros((7, 8), mx.uint32)}, "sizes"),
        ({"bits": 3}, "4 or 8 bits"),
        ({"group_size": 16}, "groups of 32"),
    ],
)
def test_what_does_not_fit_is_refused(cpu_library: CpuLibrary, changes: dict[str, Any], told: str) -> None:
    codes, scales, biases = mx.quantize(normal(8, 64), 64, 4)
    operands = {
        "x": mx.zeros((1, 64)),
        "weight": codes,
        "scales": scales,
        "biases": biases,
        "group_size": 64,
        "bits": 4,
    }
    with pytest.raises(ValueError, match=told):
        quantized_matmul(**{**operands, **changes}, library=cpu_library)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_an_embeddings_rows_are_mlxs_bit_by_bit(cpu_library: CpuLibrary, group_size: int, bits: int) -> None:
    matrix = mx.quantize(normal(50, 384), group_size, bits)
    for shape in ((1,), (2, 3), (300,)):  # of the last so many that threads share them
        for dtype in (mx.int32, mx.uint32, mx.int64):
            ids = (mx.arange(300)[: math.prod(shape)] * 7 % 50).reshape(shape).astype(dtype)
            ours = embedding(ids, *matrix, group_size, bits, cpu_library)
            assert ours.shape == (*shape, 384)
            assert mx.array_equal(ours, embedding(ids, *matrix, group_size, bits)).item()


def test_ids_of_any_strides_and_from_the_end(cpu_library: CpuLibrary) -> None:
    matrix = mx.quantize(normal(50, 64), 32, 4)
    every = embedding(mx.arange(50), *matrix, 32, 4, cpu_library)
    ids = mx.arange(24, dtype=mx.int32).reshape(4, 6)
    assert mx.array_equal(embedding(ids.T[::2], *matrix, 32, 4, cpu_library), every[ids.T[::2]]).item()
    assert mx.array_equal(embedding(mx.array([-1, -50]), *matrix, 32, 4, cpu_library), every[mx.array([49, 0])]).item()
    # Out of range there is no row; no memory is read that is not the matrix's.
    assert mx.array_equal(embedding(mx.array([50, -51]), *matrix, 32, 4, cpu_library), every[mx.array([49, 0])]).item()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ids": mx.array([1.0])}, "whole numbers"),
        ({"ids": mx.zeros((0,), mx.int32)}, "whole numbers"),
        ({"bits": 6}, "4 or 8 bits"),
        ({"bits": 8}, "sizes"),
        ({"scales": mx.zeros((8, 1), mx.float16)}, "float32"),
        ({"weight": mx.zeros((2, 8, 8), mx.uint32)}, "belong together"),
    ],
)
def test_an_embedding_refuses_what_it_does_not_know(
    cpu_library: CpuLibrary, changes: dict[str, Any], told: str
) -> None:
    weight, scales, biases = mx.quantize(normal(8, 64), 64, 4)
    operands = {"ids": mx.array([1]), "weight": weight, "scales": scales, "biases": biases, "group_size": 64, "bits": 4}
    with pytest.raises(ValueError, match=told):
        embedding(**{**operands, **changes}, library=cpu_library)


class Tower(nn.Module):
    """One layer of every kind that is replaced, and some that are not."""

    def __init__(self) -> None:
        self.embedding = nn.QuantizedEmbedding(40, 128, 64, 4)
        self.layers = [nn.QuantizedLinear(128, 128, bias=True, group_size=32, bits=8), nn.Linear(128, 128)]
        self.experts = QuantizedSwitchLinear(128, 64, 5, bias=True, group_size=64, bits=4)
        self.odd = nn.QuantizedLinear(128, 64, bias=False, group_size=64, bits=6)
        self.micro = nn.QuantizedLinear(128, 64, bias=False, mode="mxfp4")
        self.shared = self.layers[0]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    leaves: Any = tree_flatten(model.parameters())
    return {name: array.shape for name, array in leaves}


def test_layers_are_replaced_where_we_know_how(cpu_library: CpuLibrary) -> None:
    tower = Tower()
    before = shapes(tower)
    assert replace_layers(tower, cpu_library) == 3
    assert isinstance(tower.embedding, FastQuantizedEmbedding)
    assert isinstance(tower.layers[0], FastQuantizedLinear)
    assert tower.shared is tower.layers[0]
    assert isinstance(tower.experts, FastQuantizedSwitchLinear)
    assert [type(layer) for layer in (tower.layers[1], tower.odd, tower.micro)] == [
        nn.Linear,
        nn.QuantizedLinear,
        nn.QuantizedLinear,
    ]
    assert shapes(tower) == before
    assert replace_layers(tower, cpu_library) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_replaced_layers_say_what_mlxs_say(cpu_library: CpuLibrary, dtype: mx.Dtype) -> None:
    mx.random.seed(3)
    tower = Tower()
    tower.set_dtype(dtype)
    x, ids = normal(2, 3, 128, dtype=dtype), mx.array([[1, 39, 7]])
    experts = mx.array([[[4, 0], [1, 1], [2, 4]], [[3, 2], [0, 4], [1, 0]]])

    def results() -> list[mx.array]:
        return [
            tower.embedding(ids),
            tower.embedding.as_linear(x),
            tower.layers[0](x),
            tower.experts(x[:, :, None, None, :], experts),
        ]

    expected = results()
    mx.eval(expected)
    replace_layers(tower, cpu_library)
    for ours, mlxs in zip(results(), expected, strict=True):
        assert (ours.shape, ours.dtype) == (mlxs.shape, mlxs.dtype)
        tolerance = 1e-4 if dtype == mx.float32 else 4e-2
        assert mx.allclose(ours, mlxs, rtol=tolerance, atol=tolerance)


def test_an_experts_row_is_the_same_in_any_company(cpu_library: CpuLibrary) -> None:
    codes, scales, biases = mx.quantize(normal(6, 40, 512), 64, 4)
    x, chosen = normal(21, 1, 512), mx.array([i * 7 % 6 for i in range(21)])
    gather = cpu_library.module.gather_qmm
    together = gather(x, codes, scales, biases, chosen, 64, 4)
    for i in range(21):
        e = i * 7 % 6
        assert mx.array_equal(gather(x[i : i + 1], codes, scales, biases, chosen[i : i + 1], 64, 4)[0], together[i])
        assert mx.array_equal(quantized_matmul(x[i], codes[e], scales[e], biases[e], 64, 4, cpu_library), together[i])
