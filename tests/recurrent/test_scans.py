"""Scan functions are called so that rows have the bits of single steps, where that is promised."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from helix_mlx.recurrent.scans import CHUNKED, Scan, ScanCall

CALL = ScanCall("state", {"x": 1}, stepwise=True)


class Sum:
    """A scan that adds up its rows, and notes how many it is given at once."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: mx.array, state: mx.array | None, mask: Any = None) -> tuple[mx.array, mx.array]:
        self.rows.append(x.shape[1])
        before = mx.zeros(x[:, :1].shape) if state is None else state
        outputs = before + mx.cumsum(x, axis=1)
        return outputs, outputs[:, -1:]


def test_rows_are_read_one_by_one() -> None:
    function = Sum()
    outputs, state = Scan(function, CALL)({"x": mx.ones((2, 5, 3))}, None)
    assert function.rows == [1] * 5
    assert outputs[0, :, 0].tolist() == [1, 2, 3, 4, 5]
    assert state[1, 0].tolist() == [5, 5, 5]


def test_it_advances_over_the_rows_of_several_calls() -> None:
    calls = [{"x": mx.ones((2, 2, 3))}, {"x": mx.full((2, 1, 3), 10.0)}]
    state = Scan(Sum(), CALL).advance(calls, mx.zeros((2, 1, 3)), mx.array([1, 3], mx.int32))
    assert state[:, 0, 0].tolist() == [1, 12]


@pytest.mark.parametrize(("rows", "calls"), [(CHUNKED, [1] * CHUNKED), (CHUNKED + 1, [CHUNKED + 1])])
def test_a_gpu_reads_long_prompts_in_chunks(monkeypatch: pytest.MonkeyPatch, rows: int, calls: list[int]) -> None:
    monkeypatch.setattr("helix_mlx.recurrent.scans.on_cpu", lambda: False)
    function = Sum()
    Scan(function, CALL)({"x": mx.ones((1, rows, 1))}, None)
    assert function.rows == calls
