"""Records give the state of any number of their rows, with the bits of reading just these."""

from __future__ import annotations

import mlx.core as mx
import pytest

from helix_mlx.recurrent.records import ValueRecord, WindowRecord

KEPT = mx.array([0, 2, 5], mx.int32)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("passes", [(5,), (1, 1, 1, 1, 1), (2, 3)])
def test_a_window_holds_the_last_inputs_that_were_kept(passes: tuple[int, ...], axis: int) -> None:
    inputs = mx.random.normal((3, 8, 4), key=mx.random.key(0))
    if axis == 2:
        inputs = inputs.swapaxes(1, 2)
    base, *rows = mx.split(inputs, [3, *(3 + sum(passes[: n + 1]) for n in range(len(passes) - 1))], axis=axis)
    record = WindowRecord(base, axis)
    before = base
    for each in rows:
        before = record.extended(before, each)
    found = record.advance(KEPT)
    for row, kept in enumerate((0, 2, 5)):
        assert mx.array_equal(found[row], mx.take(inputs[row], mx.arange(kept, kept + 3), axis=axis - 1)).item()
        alone = WindowRecord(base[row : row + 1], axis, [each[row : row + 1] for each in rows])
        assert mx.array_equal(alone.advance(KEPT[row : row + 1])[0], found[row]).item()


def test_of_values_the_one_of_the_last_row_that_was_kept_is_taken() -> None:
    values = [mx.full((3, 2), float(row)) for row in range(6)]
    found = ValueRecord(values[0], values[1:]).advance(KEPT)
    assert found[:, 0].tolist() == [0.0, 2.0, 5.0]
