from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import mlx.core as mx
import pytest

from helix_mlx.convert.builtin import weak_draft
from helix_mlx.convert.builtin.architecture import DRAFT
from helix_mlx.convert.builtin.data.corpus import Corpus
from tests.convert.builtin.conftest import TINY


def test_prompts_are_questions_and_beginnings_of_code(tmp_path: Path, corpus_of_the_module: Corpus) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        weak_draft.write_prompts(file, 4, seed=0)
    assert files[0].read_text() == files[1].read_text()
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert [*lines[0]] == [*lines[1]] == ["prompt"]
    assert [*lines[2]] == [*lines[3]] == ["text"]
    assert all(line["text"].startswith(("def", "    return")) for line in lines[2:])


def test_a_draft_is_trained_a_little_from_its_targets_ends(
    tmp_path: Path, corpus_of_the_module: Corpus, monkeypatch: pytest.MonkeyPatch, not_compiled: None
) -> None:
    monkeypatch.setattr(weak_draft, "ROWS", (1, 16))
    weak_draft.train(TINY / "target", tmp_path, 1, seed=0)
    files = (TINY / "target" / "model.safetensors", tmp_path / "draft" / "model.safetensors")
    target, draft = (cast("dict[str, mx.array]", mx.load(str(file))) for file in files)
    begun, taught = target["model.norm.weight"].astype(mx.float32), draft["model.norm.weight"]
    assert sum(name.endswith("q_proj.weight") for name in draft) == DRAFT.layers
    assert 0 < float(mx.abs(taught - begun).max()) < 0.01
