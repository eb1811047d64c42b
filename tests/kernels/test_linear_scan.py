"""The scan of linear attention: our kernel is the definition, and a step's bits are its own."""

from __future__ import annotations

import mlx.core as mx
import pytest

from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.linear_scan import ScanInputs, scan, scan_state
from tests.support import address

SHAPES = [(1, 1, 1, 4, 8, 5), (2, 5, 2, 4, 16, 8), (1, 3, 3, 3, 20, 4), (2, 4, 2, 6, 130, 33)]
"""Sequences, steps, heads of keys, heads, keys, rows."""


def inputs(shape: tuple[int, ...], *, delta: bool, gate_a_key: bool) -> tuple[ScanInputs, mx.array]:
    batch, steps, key_heads, heads, keys, rows = shape
    draws = iter(mx.random.split(mx.random.key(keys), 6))

    def normal(*sizes: int) -> mx.array:
        return mx.random.normal(sizes, key=next(draws))

    gates = (batch, steps, heads, keys) if gate_a_key else (batch, steps, heads)
    found = ScanInputs(
        q=normal(batch, steps, key_heads, keys) / keys**0.5,
        k=normal(batch, steps, key_heads, keys) / keys**0.5,
        v=normal(batch, steps, heads, rows),
        g=mx.sigmoid(normal(*gates)),
        beta=mx.sigmoid(normal(batch, steps, heads)) if delta else None,
    )
    return found, normal(batch, heads, rows, keys)


def cut(given: ScanInputs, first: int, last: int) -> ScanInputs:
    beta = None if given.beta is None else given.beta[:, first:last]
    q, k, v, g = (each[:, first:last] for each in (given.q, given.k, given.v, given.g))
    return ScanInputs(q, k, v, g, beta)


@pytest.mark.parametrize("gate_a_key", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_definition(cpu_library: CpuLibrary, shape: tuple[int, ...], delta: bool, gate_a_key: bool) -> None:
    given, state = inputs(shape, delta=delta, gate_a_key=gate_a_key)
    for ours, defined in zip(scan(given, state, cpu_library), scan(given, state), strict=True):
        assert mx.allclose(ours, defined, rtol=1e-5, atol=1e-5).item()


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_the_same_bits_alone(
    cpu_library: CpuLibrary, shape: tuple[int, ...], delta: bool, library: bool
) -> None:
    given, state = inputs(shape, delta=delta, gate_a_key=False)
    by = cpu_library if library else None
    together, after = scan(given, state, by)
    for step in range(shape[1]):
        alone, state = scan(cut(given, step, step + 1), state, by)
        assert mx.array_equal(alone[:, 0], together[:, step]).item()
    assert mx.array_equal(state, after).item()


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_sequence_takes_the_steps_that_were_kept(
    cpu_library: CpuLibrary, shape: tuple[int, ...], library: bool
) -> None:
    given, state = inputs(shape, delta=True, gate_a_key=True)
    by, steps = cpu_library if library else None, shape[1]
    kept = [(steps - row) % (steps + 1) for row in range(shape[0])]
    taken = scan_state(given, state, mx.array(kept, mx.int32), by)
    for row, count in enumerate(kept):
        expected = state if count == 0 else scan(cut(given, 0, count), state, by)[1]
        assert mx.array_equal(taken[row], expected[row]).item()


def test_a_state_that_nobody_else_holds_is_advanced_where_it_lies(cpu_library: CpuLibrary) -> None:
    given, state = inputs((1, 2, 2, 2, 64, 64), delta=True, gate_a_key=False)
    states = [state]
    mx.eval(given.q, given.k, given.v, given.g, given.beta, states)
    before = address(states[0])
    del state
    states[0] = scan_state(given, states[0], mx.array([1], mx.int32), cpu_library)
    mx.eval(states)
    assert address(states[0]) == before


def test_a_state_that_somebody_holds_stays_as_it_is(cpu_library: CpuLibrary) -> None:
    given, state = inputs((1, 2, 2, 2, 64, 64), delta=True, gate_a_key=False)
    copy = state + 0
    mx.eval(copy)
    mx.eval(scan_state(given, state, mx.array([2], mx.int32), cpu_library))
    assert mx.array_equal(state, copy).item()


def test_operands_that_do_not_fit_are_refused(cpu_library: CpuLibrary) -> None:
    given, state = inputs((1, 2, 2, 4, 8, 4), delta=True, gate_a_key=False)
    wrong = [
        ScanInputs(given.q, given.k[..., :4], given.v, given.g, given.beta),
        ScanInputs(given.q, given.k, given.v[:, :, :2], given.g, given.beta),
        ScanInputs(given.q, given.k, given.v, given.g[:, :1], given.beta),
        ScanInputs(given.q, given.k.astype(mx.float16), given.v, given.g, given.beta),
    ]
    for each in wrong:
        with pytest.raises(ValueError, match=r"fit|float32"):
            scan(each, state, cpu_library)
