"""The three trainings one after the other, on models and rows so small that each takes a moment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer

from helix_mlx.convert.builtin import distillation
from helix_mlx.convert.builtin.compute import worker
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.convert.builtin.generation import Written
from helix_mlx.convert.builtin.training import Schedule
from tests.convert.builtin.conftest import DRAFT, TARGET, TOKENIZER

MOMENT = 0.001
"""Minutes of a training: a step or a few."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, corpus_of_the_module: Corpus, not_compiled: None) -> None:
    def schedule(minutes: float, **changes: Any) -> Schedule:
        return Schedule(minutes, **{**changes, "short_rows": (4, 8), "long_rows": (4, 12)})

    monkeypatch.setattr(worker, "Schedule", schedule)
    for module in (worker, distillation):
        monkeypatch.setattr(module, "TARGET", TARGET)
    monkeypatch.setattr(worker, "DRAFT", DRAFT)
    texts = [Written((3, 4, 5, 6), (0.1, 0.1, 1.0, 1.0))]
    monkeypatch.setattr(worker, "write_training_texts", lambda *_: (texts, texts))


def run(folder: Path, role: str) -> None:
    done = CliRunner().invoke(worker.main, [role, "--out", str(folder), "--minutes", str(MOMENT)])
    assert done.exception is None, done.output


def weights(folder: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(folder / "model.safetensors"))
    return dict(found)


def test_a_pair_is_trained_distilled_and_tuned(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    for role in worker.ROLES:
        run(tmp_path, role)
    for name, architecture in (("target", TARGET), ("draft", DRAFT)):
        before, after = weights(tmp_path / name), weights(tmp_path / "tuned" / name)
        shapes = {key: value.shape for key, value in before.items()}
        assert sum(key.endswith("q_proj.weight") for key in shapes) == architecture.layers
        assert shapes == {key: value.shape for key, value in after.items()}
        assert not mx.array_equal(before["model.norm.weight"], after["model.norm.weight"])
    # Run again, what has had its time is left alone.
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    for role in worker.ROLES:
        run(tmp_path, role)
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
