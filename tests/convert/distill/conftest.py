from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from helix_mlx.convert.pair_folder import Wanted, convert_pair
from helix_mlx.convert.recipe import Recipe
from tests.convert.checkpoints import write_checkpoint

RECIPE = Recipe(group_size=32)
PROMPTS = [
    "What is a page?", "Who drafts?", "Count to ten.", "Say it again!", "Where do keys lie?", "Is it exact?",
    "How fast is it?", "Name a colour.", "Why a tail?", "Which token?", "Good morning.", "Tell me more.",
]  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A random target, and its copy with a damaged last norm as a draft, in four bits: little has to be learnt."""
    target, draft = write_checkpoint(tmp_path / "big"), write_checkpoint(tmp_path / "small")
    weights: Any = mx.load(str(draft / "model.safetensors"))
    norm = weights["model.norm.weight"]
    weights["model.norm.weight"] = norm * mx.random.uniform(-0.5, 1.5, norm.shape, key=mx.random.key(5)).astype(
        norm.dtype
    )
    mx.eval(weights)
    mx.save_safetensors(str(draft / "model.safetensors"), weights, metadata={"format": "mlx"})
    wanted = Wanted(str(target), str(draft), tmp_path / "pair", RECIPE, RECIPE)
    convert_pair(wanted, lambda _: None, lambda *_: None)
    return tmp_path / "pair"


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    return file
