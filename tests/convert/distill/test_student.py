"""The draft that learns: what it says is what its file will say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from helix_mlx.convert.checkpoint import convert_checkpoint
from helix_mlx.convert.distill.student import Student
from helix_mlx.convert.recipe import Recipe
from helix_mlx.errors import ModelError
from tests.convert.checkpoints import write_checkpoint

TOKENS = mx.array([[5, 9, 30, 2, 7], [1, 2, 3, 4, 5]], mx.int32)
PLACES = mx.array([0, 3, 9], mx.int32)
RECIPES = {
    "affine": Recipe(group_size=32),
    "mxfp4": Recipe(mode="mxfp4"),
    "8 bits": Recipe(bits=8, group_size=32),
    "mixed": Recipe(mixed="mixed_4_6", group_size=32),
    "float": Recipe(mode="float", dtype="float16"),
}


def converted(folder: Path, recipe: Recipe, **changes: Any) -> Path:
    source = write_checkpoint(folder / "source", **changes)
    ignored: dict[str, Any] = {"line": lambda _: None, "progress": lambda *_: None}
    convert_checkpoint(source, folder / "draft", recipe, trust_remote_code=False, **ignored)
    return folder / "draft"


def said(folder: Path) -> mx.array:
    """Logits `[3, V]` of PLACES by mlx-lm's model of a folder, in float32."""
    model: Any
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    logits: mx.array = model(TOKENS).reshape(10, -1)[PLACES]
    return logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_begins_as_the_draft_and_is_saved_as_it_speaks(tmp_path: Path, recipe: str, how: str, tied: bool) -> None:
    folder = converted(tmp_path, RECIPES[recipe], tie_word_embeddings=tied)
    student = Student(folder, how, seed=0)
    # Weights that are quantised once more move a little, as the grid they lie on is chosen again.
    away = mx.abs(student.logits(student.start, TOKENS, PLACES) - said(folder))
    assert mx.mean(away) < 0.25 * mx.mean(mx.abs(said(folder)))
    changed = _moved(student.start)
    speaks = student.logits(changed, TOKENS, PLACES)
    assert speaks.shape == (3, 96)
    assert not mx.allclose(speaks, said(folder), atol=5e-2)
    student.save(changed, tmp_path / "saved")
    assert mx.allclose(speaks, said(tmp_path / "saved"), atol=2e-2)
    assert (tmp_path / "saved" / "config.json").read_text() == (folder / "config.json").read_text()
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def _moved(parameters: Any) -> Any:
    from mlx.utils import tree_map

    keys = iter(mx.random.split(mx.random.key(3), 400))
    return tree_map(lambda each: each + 0.1 * mx.random.normal(each.shape, key=next(keys)), parameters)


@pytest.mark.parametrize("how", ["full", "lora"])
def test_gradients_find_the_parameters_through_the_rounding(tmp_path: Path, how: str) -> None:
    student = Student(converted(tmp_path, RECIPES["affine"]), how, seed=0)

    def loss(parameters: Any) -> mx.array:
        return student.logits(parameters, TOKENS, PLACES).square().sum()

    from mlx.utils import tree_flatten

    leaves: Any = tree_flatten(mx.grad(loss)(_moved(student.start)))
    assert all(mx.any(gradient != 0).item() for _, gradient in leaves)


def test_a_small_draft_is_taught_whole(tmp_path: Path) -> None:
    assert Student(converted(tmp_path, RECIPES["affine"]), "auto", seed=0).how == "full"


def test_a_damaged_draft_is_told(tmp_path: Path) -> None:
    folder = converted(tmp_path, RECIPES["affine"])
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"cannot load the weights in .*draft"):
        Student(folder, "full", seed=0)
