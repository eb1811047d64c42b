"""One model from the Hugging Face layout to MLX: what mlx-lm's own conversion gives, to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.convert import convert as mlx_lm_convert
from mlx_lm.utils import load_model

from helix_mlx.convert import checkpoint
from helix_mlx.convert.checkpoint import convert_checkpoint
from helix_mlx.convert.recipe import Recipe
from helix_mlx.errors import HelixError, ModelError
from tests.convert.checkpoints import write_checkpoint

FAMILIES = (
    "llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "mixtral", "cohere2",
)  # fmt: skip


def convert(source: Path, destination: Path, recipe: Recipe) -> Any:
    return convert_checkpoint(
        source, destination, recipe, trust_remote_code=False, line=lambda _: None, progress=lambda *_: None
    )


def logits(folder: Path) -> mx.array:
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)  # MLX multiplies experts on a CPU in this type alone
    found = model(mx.array([[3, 5, 7, 11]]))
    assert isinstance(found, mx.array)
    return found


def weights(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for file in folder.glob("model*.safetensors"):
        loaded: Any = mx.load(str(file))
        found |= loaded
    return found


def same(ours: Path, theirs: Path) -> None:
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        assert mx.array_equal(array, other[name]), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_mlx_lms_own_conversion(family: str, tmp_path: Path) -> None:
    # granite's own table asks for groups of 64 in some layers, whatever the others have.
    source = write_checkpoint(tmp_path / "source", family, shards=1 + len(family) % 3, intermediate_size=128)
    convert(source, tmp_path / "float", Recipe(mode="float"))
    mlx_lm_convert(str(source), str(tmp_path / "their float"))
    same(tmp_path / "float", tmp_path / "their float")
    assert mx.array_equal(logits(tmp_path / "float"), logits(tmp_path / "their float"))
    told = convert(source, tmp_path / "four", Recipe(group_size=32))
    assert told == {"group_size": 32, "bits": 4, "mode": "affine"}
    mlx_lm_convert(str(source), str(tmp_path / "their four"), quantize=True, q_group_size=32, q_bits=4)
    same(tmp_path / "four", tmp_path / "their four")


def test_quantised_weights_are_mx_quantizes_own(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", shards=2)
    convert(source, tmp_path / "out", Recipe(bits=6, group_size=32))
    before, after = weights(source), weights(tmp_path / "out")
    name = "model.layers.1.mlp.gate_proj"
    expected = mx.quantize(before[f"{name}.weight"], group_size=32, bits=6)
    for part, array in zip(("weight", "scales", "biases"), expected, strict=True):
        assert mx.array_equal(after[f"{name}.{part}"], array)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(bits=2, group_size=32),
        Recipe(bits=8),
        Recipe(mode="mxfp4"),
        Recipe(mode="mxfp8"),
        Recipe(mode="nvfp4"),
        Recipe(mixed="mixed_4_6", group_size=32),
        Recipe(group_size=32, dtype="float16"),
    ],
    ids=str,
)
def test_every_mode_loads_and_says_so(recipe: Recipe, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", num_hidden_layers=3)
    told = convert(source, tmp_path / "out", recipe)
    assert told["mode"] == recipe.mode
    found = np.array(logits(tmp_path / "out").astype(mx.float32))
    assert np.isfinite(found).all()
    if recipe.dtype:
        assert weights(tmp_path / "out")["model.norm.weight"].dtype == mx.float16
    if recipe.mixed:
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["quantization"]["lm_head"]["bits"] == 6


def test_what_is_quantised_already_is_taken_as_it_is_or_done_again(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    convert(source, tmp_path / "four", Recipe(group_size=32))
    convert(tmp_path / "four", tmp_path / "as it is", Recipe(bits=8))
    same(tmp_path / "as it is", tmp_path / "four")
    told = convert(tmp_path / "four", tmp_path / "again", Recipe(bits=8, group_size=32, again=True))
    assert told["bits"] == 8
    convert(tmp_path / "four", tmp_path / "float", Recipe(mode="float"))
    assert not any(name.endswith("scales") for name in weights(tmp_path / "float"))


def test_many_files_come_where_one_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source")
    convert(source, tmp_path / "one", Recipe(group_size=32))
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 8_000)
    convert(source, tmp_path / "many", Recipe(group_size=32))
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    same(tmp_path / "many", tmp_path / "one")


def test_a_weight_is_computed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds the memory: never are two asked for together before a file is written."""
    source = write_checkpoint(tmp_path / "source")
    asked: list[int] = []
    original = mx.eval

    def counted(*arrays: mx.array) -> None:
        asked.append(len(arrays))
        original(*arrays)

    monkeypatch.setattr(mx, "eval", counted)
    convert(source, tmp_path / "out", Recipe(group_size=32))
    assert len(asked) >= 20
    assert set(asked) == {1}


def test_groups_that_divide_nothing_are_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(HelixError, match="divides into groups of 128"):
        convert(source, tmp_path / "out", Recipe(group_size=128))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="download the model again"):
        convert(source, tmp_path / "out", Recipe(group_size=32))


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", shards=2)
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="download the model again"):
        convert(source, tmp_path / "out", Recipe(group_size=32))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(ModelError, match=r"disk of .* is full"):
        convert(source, tmp_path / "out", Recipe(group_size=32))


def test_room_is_known_to_the_byte_before_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rough bound before goes by the source's bytes, which says little where those are quantised."""
    source = write_checkpoint(tmp_path / "source")
    convert(source, tmp_path / "four", Recipe(group_size=32))
    free = (tmp_path / "four" / "model.safetensors").stat().st_size * 2
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())
    convert(tmp_path / "four", tmp_path / "as it is", Recipe())
    with pytest.raises(ModelError, match="GB free"):
        convert(tmp_path / "four", tmp_path / "float", Recipe(mode="float"))
    assert not list((tmp_path / "float").iterdir())


def test_tokenizer_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "modeling.py").write_text("raise SystemExit")
    shutil.copy(source / "tokenizer.json", tmp_path / "kept.json")
    convert(source, tmp_path / "out", Recipe(group_size=32))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "kept.json").read_bytes()
    assert not list((tmp_path / "out").glob("*.py"))


def test_a_folder_of_any_name_is_converted_and_its_stray_files_are_not(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source [4bit] *", shards=2)
    stray = {name: array * 2 for name, array in weights(source).items()}
    mx.save_safetensors(str(source / "model-old.safetensors"), stray)
    (source / "additional_chat_templates").mkdir()
    for name in ("tiktoken.model", "tekken.json", "additional_chat_templates/tool_use.jinja"):
        (source / name).write_text("{}")
    told: list[str] = []
    out = tmp_path / "out [x]"
    recipe = Recipe(mode="float")
    convert_checkpoint(source, out, recipe, trust_remote_code=False, line=told.append, progress=lambda *_: None)
    (source / "model-old.safetensors").unlink()
    assert len(told) == 1
    assert "model-old.safetensors" in told[0]
    before, after = weights(source), weights(out)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(array, after[name]) for name, array in before.items())
    for name in ("tiktoken.model", "tekken.json", "additional_chat_templates/tool_use.jinja"):
        assert (out / name).is_file()
