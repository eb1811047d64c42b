"""Heads on disk: as the hub has them, kept by a conversion, published alone, and damaged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from helix_mlx.config import EngineConfig
from helix_mlx.convert.pair_folder import Wanted, convert_pair
from helix_mlx.convert.recipe import Recipe
from helix_mlx.engine.engine import load
from helix_mlx.models.loader import LoadedModel
from helix_mlx.models.mtp.families import LAYER, Family, is_norm
from helix_mlx.models.mtp.head import MTPHead
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.mtp.weights import family_of, read_head, save_head
from helix_mlx.models.pairs import converted_pair
from tests.convert.checkpoints import write_tokenizer
from tests.heads import random_head, target_of
from tests.support import plain, prompt

CONFIG = EngineConfig(max_context=128, calibrate=False, cpu_kernels="off")
FAMILIES = ("deepseek_v3", "glm4_moe", "mimo", "qwen3_5", "qwen3_5_moe", "qwen3_next")


def parameters(module: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def published(target: LoadedModel, head: MTPHead, family: Family) -> dict[str, mx.array]:
    """A head's weights under the names of an original checkpoint, experts one by one, norms less one where they are."""
    layers = (target.config.get("text_config") or target.config)["num_hidden_layers"]
    prefix, names = family.prefix.format(layers=layers), {ours: theirs for theirs, ours in family.names.items()}
    found: dict[str, mx.array] = {}
    for name, array in parameters(head).items():
        if family.zero_centred and array.ndim == 1 and is_norm(name):
            array = array - 1
        outer = next((each for each in names if name.startswith(f"{each}.")), None)
        if outer is not None:
            name = f"{names[outer]}{name[len(outer) :]}"
        elif family.names:
            name = name.removeprefix(LAYER)
        if (expert := re.fullmatch(r"(.*\.)switch_mlp\.(\w+)\.weight", name)) is not None:
            for number in range(array.shape[0]):
                found[f"{prefix}{expert[1]}experts.{number}.{expert[2]}.weight"] = array[number]
        else:
            found[f"{prefix}{name}"] = array
    return found


def fused(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The experts of a layer in two arrays, as Qwen3.5's checkpoints have them."""
    found = {name: array for name, array in weights.items() if ".experts." not in name}
    if len(found) < len(weights):
        place = next(name for name in weights if ".experts." in name).split(".experts.")[0]
        count = sum(name.endswith(".down_proj.weight") and ".experts." in name for name in weights)

        def stacked(kind: str) -> mx.array:
            return mx.stack([weights[f"{place}.experts.{number}.{kind}.weight"] for number in range(count)])

        found[f"{place}.experts.gate_up_proj"] = mx.concatenate([stacked("gate_proj"), stacked("up_proj")], axis=1)
        found[f"{place}.experts.down_proj"] = stacked("down_proj")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_in_an_original_checkpoint_is_read(family: str, tmp_path: Path) -> None:
    """By the names that its makers gave it, with its experts and latents in other arrays than in MLX's layout."""
    target = target_of(family)
    head, row = random_head(target), family_of(target.config)
    assert row is not None
    weights = published(target, head, row)
    if family == "deepseek_v3":
        weights = joined_latents(weights, target.config)
    if family == "qwen3_5_moe":
        weights = fused(weights)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights, metadata={"format": "pt"})
    found = read_head(tmp_path, target.config, target.model)
    assert found is not None
    expected = parameters(head)
    assert parameters(found).keys() == expected.keys()
    for name, array in parameters(found).items():
        assert mx.allclose(array, expected[name], atol=1e-6), name


def joined_latents(weights: dict[str, mx.array], config: dict[str, Any]) -> dict[str, mx.array]:
    """DeepSeek's `kv_b_proj` of the two arrays that mlx-lm makes of it."""
    found = dict(weights)
    place = next(name for name in weights if "embed_q" in name).split("embed_q")[0]
    keys, values = found.pop(f"{place}embed_q.weight"), found.pop(f"{place}unembed_out.weight")
    joined = mx.concatenate([keys.swapaxes(-1, -2), values], axis=1)
    found[f"{place}kv_b_proj.weight"] = joined.reshape(-1, config["kv_lora_rank"])
    return found


def write_model(folder: Path, weights: dict[str, mx.array], config: dict[str, Any]) -> Path:
    """A model's folder in MLX's layout."""
    folder.mkdir()
    mx.save_safetensors(str(folder / "model-00001-of-00002.safetensors"), weights, metadata={"format": "mlx"})
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), {}, metadata={"format": "mlx"})
    text = {name: value for name, value in config["text_config"].items() if name != "layer_types"}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
    write_tokenizer(folder)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder of a target whose second file of weights has its head, as its makers published it."""
    made = target_of("qwen3_5")
    row = family_of(made.config)
    assert row is not None
    folder = write_model(tmp_path / "target", parameters(made.model), made.config)
    write_head(folder, published(made, random_head(made), row))
    return folder


def write_head(folder: Path, weights: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), weights, metadata={"format": "pt"})


def head_weights(folder: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(folder / "model-00002-of-00002.safetensors"))
    return dict(found)


def drafts(folder: Path, **choice: Any) -> tuple[bool, list[str]]:
    """Whether a loaded target drafts with a head, with its own text, and what was told meanwhile."""
    told: list[str] = []
    config = replace(CONFIG, drafter=choice.pop("drafter", "auto"))
    with load(target=str(folder), config=config, notice=told.append, **choice) as engine:
        done = engine.generate(prompt(9), max_tokens=20, draft_tokens=4)
        assert done.tokens == plain(engine.pair.target.model, prompt(9), 20)
        has_head = head_of(engine.pair.draft) is not None
        assert (done.stats.draft_passes > 0) == (engine.pair.draft is not None)
        return has_head, told


def test_a_target_with_a_head_drafts_with_it(target: Path) -> None:
    assert drafts(target) == (True, [])
    assert drafts(target, drafter="mtp") == (True, [])
    assert drafts(target, drafter="model") == (False, [])
    assert drafts(target, draft="none") == (False, [])


def test_a_draft_model_that_is_named_comes_first(target: Path, tmp_path: Path) -> None:
    small = target_of("qwen3_5", seed=7)
    other = write_model(tmp_path / "draft", parameters(small.model), small.config)
    assert drafts(target, draft=str(other)) == (False, [])
    assert drafts(target, draft=str(other), drafter="mtp") == (True, [])


def test_a_head_published_alone_is_a_draft(target: Path, tmp_path: Path) -> None:
    """Without a prefix, and with norms as they are used."""
    made = target_of("qwen3_5")
    folder = tmp_path / "head"
    folder.mkdir()
    head = random_head(made)
    mx.save_safetensors(str(folder / "model.safetensors"), parameters(head), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps({**made.config, "model_type": "qwen3_5_mtp"}))
    write_head(target, {})
    assert drafts(target) == (False, [])
    assert drafts(target, draft=str(folder)) == (True, [])
    with load(target=str(target), draft=str(folder), config=CONFIG) as engine:
        found = head_of(engine.pair.draft)
        assert found is not None
        for name, array in parameters(found).items():
            assert mx.array_equal(array, parameters(head)[name]), name


def test_a_conversion_keeps_the_head_with_weights_like_the_targets(target: Path, tmp_path: Path) -> None:
    recipe = Recipe(group_size=32)
    made = convert_pair(Wanted(str(target), None, tmp_path / "pair", recipe, recipe), lambda _: None, lambda *_: None)
    assert made.holds_head
    assert converted_pair("mine", tmp_path / "pair").head
    with load(str(tmp_path / "pair"), config=CONFIG) as engine:
        head = head_of(engine.pair.draft)
        assert head is not None
        assert isinstance(head.fc, nn.QuantizedLinear)
        assert (head.fc.bits, head.fc.group_size) == (4, 32)
        done = engine.generate(prompt(9), max_tokens=20, draft_tokens=4)
        assert done.tokens == plain(engine.pair.target.model, prompt(9), 20)
        assert done.stats.draft_passes


def lacking(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    return {name: array for name, array in weights.items() if "q_proj" not in name}


def misshapen(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    return {**weights, "mtp.fc.weight": weights["mtp.fc.weight"][:-1]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lacking, "it lacks layers.0.self_attn.q_proj.weight"),
        (misshapen, "fc.weight has the shape [31, 64] instead of [32, 64]"),
    ],
)
def test_a_damaged_head_is_named_and_left_out(target: Path, change: Any, says: str) -> None:
    write_head(target, change(head_weights(target)))
    has_head, told = drafts(target)
    assert not has_head
    assert len(told) == 1
    assert says in told[0]
    assert "left out" in told[0]


def test_a_head_that_breaks_off_is_named_and_left_out(target: Path) -> None:
    save_head(random_head(target_of("qwen3_5")), target)
    file = target / "mtp.safetensors"
    file.write_bytes(file.read_bytes()[:-200])
    has_head, told = drafts(target)
    assert not has_head
    assert len(told) == 1
    assert "left out" in told[0]


def test_a_target_without_a_head_says_so_where_one_is_asked_for(target: Path) -> None:
    write_head(target, {})
    has_head, told = drafts(target, drafter="mtp")
    assert not has_head
    assert len(told) == 1
    assert "no usable multi-token-prediction head" in told[0]
