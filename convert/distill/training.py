"""Teaching a draft, epoch by epoch: what held-out texts say is best is kept, and an interruption loses one epoch."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from helix_mlx.convert.distill.batching import TeachingTexts
from helix_mlx.convert.distill.distillation_loss import Rows, imitation_loss, kept_chance
from helix_mlx.convert.distill.numpy_ops import are_faster, fastest_ops
from helix_mlx.convert.distill.student import Student
from helix_mlx.types import Notice, Progress

STATE, BEST = "state.safetensors", "best.safetensors"
BASE_WIDTH, BASE_RATE, LORA_FACTOR = 256, 1.5e-3, 2.0
"""Adam's rate falls with a model's width (Yang et al. 2022, 2203.03466); a low-rank change takes a larger one."""
PATIENCE = 4
"""Epochs without a better one, after which it ends."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a draft learns.

    Args:
        epochs: times that it sees every text.
        rate: the highest learning rate; None takes one for its width.
        seed: of the order of the texts.
    """

    epochs: int = 6
    rate: float | None = None
    seed: int = 0

    def rate_at(self, highest: float, step: int, steps: int) -> float:
        """Up over the first twentieth, then down a cosine to a fiftieth."""
        warm = max(1, steps // 20)
        if step < warm:
            return highest * (step + 1) / warm
        share = (step - warm) / max(1, steps - warm)
        return highest * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass
class Course:
    """What has been done. `chances[i]` is what held-out texts said after i epochs."""

    epoch: int = 0
    best_epoch: int = 0
    chances: list[float] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether nothing has got better for long."""
        return self.epoch - self.best_epoch >= PATIENCE


class Trainer:
    """Teaches a student; `folder` keeps where it is.

    Args:
        student: the draft.
        schedule: how long and how fast.
        folder: of the state and the best parameters so far.
    """

    def __init__(self, student: Student, schedule: Schedule, folder: Path) -> None:
        self.student, self.schedule = student, schedule
        self._folder = folder
        self._parameters: Any = student.start
        self.course = Course()
        factor = LORA_FACTOR if student.how == "lora" else 1.0
        self._rate = schedule.rate or factor * BASE_RATE * BASE_WIDTH / max(student.width, BASE_WIDTH)
        self._optimizer = optim.AdamW(learning_rate=self._rate, betas=[0.9, 0.98], weight_decay=0.0)
        self._optimizer.init(self._parameters)
        self._gradients, self._chances = mx.value_and_grad(self._loss), self._kept
        if not are_faster():  # what numpy computes cannot be compiled
            self._gradients, self._chances = mx.compile(self._gradients), mx.compile(self._chances)

    def run(self, taught: TeachingTexts, held_out: TeachingTexts, line: Notice, progress: Progress) -> Any:
        """Teach it to the end, or go on from where the folder is.

        Returns:
            The parameters that held-out texts liked best; those it began with where none was better.
        """
        self._restore()
        if not self.course.chances:
            self._examine(held_out, line)
        while self.course.epoch < self.schedule.epochs and not self.course.has_ended:
            self._epoch(taught, progress)
            self.course.epoch += 1
            self._examine(held_out, line)
        return self._load(BEST)[0] if self.course.best_epoch else self.student.start

    def _epoch(self, taught: TeachingTexts, progress: Progress) -> None:
        epoch, count = self.course.epoch, len(taught)
        for number, rows in enumerate(taught.batches(seed=1000 * self.schedule.seed + epoch)):
            step, steps = epoch * count + number, self.schedule.epochs * count
            self._optimizer.learning_rate = self.schedule.rate_at(self._rate, step, steps)
            with fastest_ops():
                _, gradients = self._gradients(self._parameters, *vars(rows).values())
            gradients, _ = optim.clip_grad_norm(gradients, 1.0)
            self._parameters = self._optimizer.apply_gradients(gradients, self._parameters)
            mx.eval(self._parameters, self._optimizer.state)
            progress(step + 1, steps)

    def _examine(self, held_out: TeachingTexts, line: Notice) -> None:
        """See what held-out texts say, keep the best, and keep the state."""
        course, sums = self.course, mx.zeros((2,))
        for rows in held_out.batches(seed=None):
            with fastest_ops():
                sums = sums + self._chances(self._parameters, *vars(rows).values())
                mx.eval(sums)
        kept, places = np.array(sums)
        course.chances.append(float(kept / max(places, 1.0)))
        if course.chances[-1] > max(course.chances[:-1], default=-1.0):
            course.best_epoch = course.epoch
            self._save(BEST, {"parameters": self._parameters})
        self._save(STATE, {"parameters": self._parameters, "optimizer": self._optimizer.state})
        line(f"epoch {course.epoch}: acceptance {course.chances[-1]:.3f} on held-out texts")

    def _loss(self, parameters: Any, *arrays: mx.array) -> mx.array:
        rows = Rows(*arrays)
        return imitation_loss(self.student.logits(parameters, rows.tokens, rows.places), rows)

    def _kept(self, parameters: Any, *arrays: mx.array) -> mx.array:
        """`[2]`: drafts that would be kept, and places."""
        rows = Rows(*arrays)
        chances = kept_chance(self.student.logits(parameters, rows.tokens, rows.places), rows)
        return mx.stack([mx.sum(chances * rows.weights), mx.sum(rows.weights)])

    def _save(self, name: str, trees: dict[str, Any]) -> None:
        leaves: Any = tree_flatten(trees)
        beside = self._folder / f"part-{name}"
        mx.save_safetensors(str(beside), dict(leaves), metadata={"course": json.dumps(asdict(self.course))})
        beside.replace(self._folder / name)

    def _load(self, name: str) -> tuple[Any, Any, Course]:
        """Parameters, the optimiser's state where there is one, and how far it was."""
        found: Any = mx.load(str(self._folder / name), return_metadata=True)
        arrays, metadata = found
        trees: Any = tree_unflatten(list(arrays.items()))
        return trees["parameters"], trees.get("optimizer"), Course(**json.loads(metadata["course"]))

    def _restore(self) -> None:
        if (self._folder / STATE).exists():
            self._parameters, self._optimizer.state, self.course = self._load(STATE)
