"""The training loop of both models: data parallel over processes, scheduled by the clock, resumable.

The length of a training is given in minutes, because that is what one has; the learning rate, the length of the rows
and the beginning of quantisation-aware training follow the share of that time that has passed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map, tree_map_with_path, tree_unflatten

from helix_mlx.convert.builtin.architecture import fake_quantised, named_arrays
from helix_mlx.convert.builtin.compute.cpu_ops import fast_training_ops
from helix_mlx.convert.builtin.data.batches import Tokens, Weights
from helix_mlx.files import write_beside

Batch = tuple[mx.array, mx.array]
# (model, tokens [B, L + 1], weights [B, L]) -> scalar loss
Objective = Callable[[nn.Module, mx.array, mx.array], mx.array]


class BatchSource(Protocol):
    """Where a training gets its rows from."""

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """Tokens [rows, length + 1] and weights [rows, length]."""


@dataclass(frozen=True)
class Schedule:
    """A training by the clock. Shares are of ``minutes``."""

    minutes: float
    matrix_rate: float = 0.02
    vector_rate: float = 3e-3
    matrix_decay: float = 0.05
    warmup: float = 0.015
    decay_from: float = 0.25
    quantised_from: float = 0.82
    long_from: float = 0.88
    short_rows: tuple[int, int] = (12, 256)
    long_rows: tuple[int, int] = (3, 1024)
    checkpoint_minutes: float = 3.0
    log_seconds: float = 30.0

    def rate(self, progress: float) -> float:
        """Factor on the learning rates: up, flat, then down to a fiftieth."""
        if progress < self.warmup:
            return max(progress, 1e-3) / self.warmup
        if progress < self.decay_from:
            return 1.0
        return max(0.02, (1.0 - progress) / (1.0 - self.decay_from))

    def shape(self, progress: float) -> tuple[int, int]:
        """Rows of a process and their length."""
        return self.long_rows if progress >= self.long_from else self.short_rows


def _is_matrix(name: str, value: mx.array) -> bool:
    return value.ndim == 2 and "embed" not in name


def _clipped(gradients: Any, limit: float) -> Any:
    """The gradients, made smaller together where their norm exceeds ``limit``."""
    norm = mx.sqrt(sum((mx.sum(mx.square(value)) for _, value in named_arrays(gradients)), start=mx.array(0.0)))
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda value: value * factor, gradients)


class Trainer:
    """Trains one model. Every process of the group holds the same weights and sees its own rows."""

    def __init__(self, model: nn.Module, objective: Objective, schedule: Schedule, folder: Path) -> None:
        self.model = model
        self.schedule = schedule
        self._folder = folder
        self._group = mx.distributed.init()
        # mlx's Muon adds its decay to the gradient, before normalising it; ours is applied to the weights, in _step.
        self._muon = optim.Muon(learning_rate=schedule.matrix_rate, weight_decay=0.0)
        self._adam = optim.AdamW(learning_rate=schedule.vector_rate, betas=[0.9, 0.98], weight_decay=0.0)
        self._optimizer = optim.MultiOptimizer([self._muon, self._adam], [_is_matrix])
        self._optimizer.init(model.trainable_parameters())
        self._parameters: Any = model.trainable_parameters()
        self._objective = objective
        self._elapsed = 0.0
        self._steps = 0
        self._gradients = {flag: self._compiled_gradients(flag) for flag in (False, True)}

    @property
    def is_first(self) -> bool:
        """Whether this process reports and saves."""
        return bool(self._group.rank() == 0)

    def _compiled_gradients(self, quantised: bool) -> Callable[..., Any]:
        def loss(parameters: Any, tokens: mx.array, weights: mx.array) -> mx.array:
            self.model.update(fake_quantised(parameters) if quantised else parameters)
            return self._objective(self.model, tokens, weights)

        return mx.compile(mx.value_and_grad(loss))

    def run(self, source: BatchSource, on_checkpoint: Callable[[], None] | None = None) -> None:
        """Trains until the schedule's time is over; continues from the folder's last state if there is one."""
        with fast_training_ops():
            self._run(source, on_checkpoint)

    def _run(self, source: BatchSource, on_checkpoint: Callable[[], None] | None) -> None:
        self._restore()
        begun = time.monotonic() - self._elapsed
        last_saved = last_logged = time.monotonic()
        seen, losses = 0, []
        total = self.schedule.minutes * 60.0
        progress = self._elapsed / total
        while progress < 1.0:
            rows, length = self.schedule.shape(progress)
            loss, clock = self._step(source.batch(rows, length), progress, time.monotonic() - begun)
            self._elapsed = clock  # the mean over the processes, so that all of them follow one clock
            progress = clock / total
            losses.append(loss)
            seen += rows * length * self._group.size()
            now = time.monotonic()
            if now - last_logged > self.schedule.log_seconds:
                self._log(progress, losses, seen / (now - last_logged))
                last_logged, seen, losses = now, 0, []
            if clock - (last_saved - begun) > self.schedule.checkpoint_minutes * 60.0:
                last_saved = now
                self._checkpoint(on_checkpoint)
        self._checkpoint(on_checkpoint)

    def _step(self, batch: tuple[Tokens, Weights], progress: float, clock: float) -> tuple[float, float]:
        """One update. Returns the loss and the clock, both averaged over the processes."""
        schedule = self.schedule
        matrix_rate = schedule.matrix_rate * schedule.rate(progress)
        self._muon.learning_rate = matrix_rate
        self._adam.learning_rate = schedule.vector_rate * schedule.rate(progress)
        compute = self._gradients[progress >= schedule.quantised_from]
        loss, gradients = compute(self._parameters, mx.array(batch[0]), mx.array(batch[1]))
        mx.eval(loss, gradients)
        gradients = nn.average_gradients(gradients, self._group)
        gradients = _clipped(gradients, 1.0)
        self._parameters = self._optimizer.apply_gradients(gradients, self._decayed(matrix_rate))
        means = mx.distributed.all_sum(mx.array([loss.item(), clock]), group=self._group) / self._group.size()
        mx.eval(self._parameters, self._optimizer.state, means)
        self._steps += 1
        mean_loss, mean_clock = np.array(means)
        return float(mean_loss), float(mean_clock)

    def _decayed(self, matrix_rate: float) -> Any:
        """The parameters with the matrices shrunk by this step's weight decay."""
        keep = 1.0 - matrix_rate * self.schedule.matrix_decay

        def shrunk(name: str, value: mx.array) -> mx.array:
            return value * keep if _is_matrix(name, value) else value

        return tree_map_with_path(shrunk, self._parameters)

    def _log(self, progress: float, losses: list[float], speed: float) -> None:
        if self.is_first:
            mean = sum(losses) / len(losses)
            print(f"{progress:6.1%}  step {self._steps:5d}  loss {mean:.4f}  {speed:,.0f} tokens/s", flush=True)

    def _checkpoint(self, on_checkpoint: Callable[[], None] | None) -> None:
        self.model.update(self._parameters)
        if not self.is_first:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {f"parameters.{name}": value for name, value in named_arrays(self._parameters)}
        state |= {f"optimizer.{name}": value for name, value in named_arrays(self._optimizer.state)}
        beside = self._folder / "state.part.safetensors"
        mx.save_safetensors(str(beside), state)
        beside.rename(self._folder / "state.safetensors")
        clock = {"elapsed": self._elapsed, "steps": self._steps}
        write_beside(self._folder / "clock.json", json.dumps(clock).encode())
        if on_checkpoint is not None:
            on_checkpoint()

    def restored_steps(self) -> int:
        """How many steps an earlier run in this folder has done."""
        return int(self._saved_clock()["steps"])

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run in this folder has used up the time."""
        return self._saved_clock()["elapsed"] >= self.schedule.minutes * 60.0

    def _saved_clock(self) -> dict[str, float]:
        file = self._folder / "clock.json"
        if not file.exists():
            return {"elapsed": 0.0, "steps": 0}
        clock: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        return clock

    def _restore(self) -> None:
        if not (self._folder / "clock.json").exists():
            return
        clock = self._saved_clock()
        self._elapsed, self._steps = clock["elapsed"], int(clock["steps"])
        state: dict[str, mx.array] = mx.load(str(self._folder / "state.safetensors"))  # type: ignore[assignment]
        halves: dict[str, list[tuple[str, mx.array]]] = {"parameters": [], "optimizer": []}
        for name, value in state.items():
            half, _, rest = name.partition(".")
            halves[half].append((rest, value))
        self._parameters = tree_unflatten(halves["parameters"])
        self._optimizer.state = tree_unflatten(halves["optimizer"])
        if self.is_first:
            print(f"continues at {self._elapsed / 60.0:.1f} minutes, step {self._steps}", flush=True)
