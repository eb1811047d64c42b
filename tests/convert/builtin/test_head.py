"""A head for the built-in target, trained for a step: it is saved beside the target, and measured."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from helix_mlx.bench.suite import heads
from helix_mlx.convert.builtin import head
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.pair import load_pair
from tests.convert.builtin.conftest import TINY


def test_a_trained_head_lies_beside_its_target_and_is_measured(
    tmp_path: Path,
    corpus_of_the_module: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    not_compiled: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(head, "ROWS", (1, 16))
    folder = tmp_path / "target"
    head.add_head(TINY / "target", folder, 1, 0, lambda *_: None)
    weights = mx.load(str(folder / "mtp.safetensors"))
    assert isinstance(weights, dict)
    assert "mtp.fc.scales" in weights
    assert load_pair(target=str(folder)).draft is None
    assert head_of(load_pair(target=str(folder), head=True).draft) is not None
    found, limits = heads.compare(folder, 1, 6)
    assert [each["drafter"] for each in found[:3]] == ["ngram", "model", "mtp"]
    assert limits[0].met
    assert "Tokens per pass" in capsys.readouterr().out
