from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from helix_mlx.convert.builtin.architecture import named_arrays
from helix_mlx.convert.builtin.compute.worker import next_token_loss
from helix_mlx.convert.builtin.data.batches import Tokens, Weights
from helix_mlx.convert.builtin.training import Schedule, Trainer
from tests.convert.builtin.conftest import DRAFT


class Counting:
    """Rows that count up, which are soon learnt."""

    def __init__(self, steps: int | None = None) -> None:
        self.left = steps
        self.shapes: list[tuple[int, int]] = []

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        if self.left == len(self.shapes):
            raise KeyboardInterrupt
        self.shapes.append((rows, length))
        return np.tile(np.arange(10, 11 + length, dtype=np.int32), (rows, 1)), np.ones((rows, length), np.float32)


def trainer(folder: Path, minutes: float, **changes: float) -> Trainer:
    mx.random.seed(0)
    schedule = Schedule(minutes, short_rows=(2, 6), long_rows=(1, 9), **changes)
    return Trainer(DRAFT.build(), next_token_loss, schedule, folder)


def test_the_rate_goes_up_stays_and_goes_down() -> None:
    schedule = Schedule(10.0)
    rates = [schedule.rate(progress) for progress in (0.0, 0.0075, 0.015, 0.2, 0.625, 1.0)]
    assert rates == pytest.approx([1e-3 / 0.015, 0.5, 1.0, 1.0, 0.5, 0.02])
    assert schedule.shape(0.5) == (12, 256)
    assert schedule.shape(0.9) == (3, 1024)


def test_a_step_makes_the_loss_smaller(tmp_path: Path, not_compiled: None) -> None:
    made = trainer(tmp_path, 1.0)
    source = Counting()
    losses = [made._step(source.batch(2, 6), 0.1, 0.0)[0] for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_training_that_was_interrupted_goes_on_from_its_last_state(tmp_path: Path, not_compiled: None) -> None:
    first, saved = trainer(tmp_path, 10.0, checkpoint_minutes=0.0), []
    with pytest.raises(KeyboardInterrupt):
        first.run(Counting(steps=3), lambda: saved.append(1))
    assert len(saved) == first.restored_steps() == 3
    assert not first.is_finished
    again = trainer(tmp_path, 10.0, checkpoint_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        again.run(Counting(steps=0))
    kept, found = (dict(named_arrays(each._parameters)) for each in (first, again))
    assert all(mx.array_equal(kept[name], found[name]) for name in kept)
    with pytest.raises(KeyboardInterrupt):
        again.run(Counting(steps=2))
    assert again.restored_steps() == 5


def test_when_the_time_is_over_it_ends_and_saves(tmp_path: Path, not_compiled: None) -> None:
    made, source = trainer(tmp_path, 1e-6), Counting()
    made.run(source)
    assert source.shapes == [(2, 6)]
    assert made.is_finished
    again = Counting()
    trainer(tmp_path, 1e-6).run(again)
    assert again.shapes == []
