"""What a generation_config.json asks for, and what is wrong in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.errors import ModelError
from helix_mlx.models.generation import read_generation_config
from helix_mlx.models.loader import read_config
from helix_mlx.models.pair import load_pair

TINY = Path(__file__).parent.parent.parent / "helix_mlx" / "models" / "tiny" / "target"


def written(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0}, None),
        ({"do_sample": True, "temperature": 0.7, "max_new_tokens": 9}, {"temperature": 0.7}),
        ({"do_sample": True, "top_k": 64}, {"temperature": 1.0, "top_k": 64}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}),
        ({"temperature": None, "top_k": -1}, {"top_k": 0}),
    ],
)
def test_the_settings_of_a_model(tmp_path: Path, content: dict[str, Any], settings: dict[str, Any] | None) -> None:
    found = read_generation_config(written(tmp_path, content))
    assert found.settings == (content if settings is None else settings)
    assert found.left_out == {}


def test_a_model_without_the_file_asks_for_nothing(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path).settings == {}


def test_what_helix_does_not_have_is_noted_where_it_changes_a_text(tmp_path: Path) -> None:
    content = {"repetition_penalty": 1.05, "no_repeat_ngram_size": 0, "typical_p": 1.0, "suppress_tokens": [5]}
    found = read_generation_config(written(tmp_path, content))
    assert found.left_out == {"repetition_penalty": 1.05, "suppress_tokens": [5]}


@pytest.mark.parametrize(
    "content", ["{", "", "[1]", '"x"', "\ud800", {"eos_token_id": "x"}, {"eos_token_id": [1, "x"]}]
)
def test_a_broken_file_is_told_before_mlx_lm_falls_over_it(tmp_path: Path, content: Any) -> None:
    if content == "\ud800":
        (tmp_path / "generation_config.json").write_bytes(b"\xff\xfe\x00")
    else:
        written(tmp_path, content)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for read in (read_generation_config, lambda folder: read_config(folder, False)):
        with pytest.raises(ModelError, match=r"generation_config\.json") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [{"temperature": "hot"}, {"temperature": -1}, {"top_p": 7}, {"top_k": 0.5}, {"min_p": [0]}, {"do_sample": "yes"}],
)
def test_a_setting_out_of_range_names_the_file_and_the_way_out(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"generation_config\.json, .* must be .*--no-generation-config"):
        read_generation_config(written(tmp_path, content))


def test_end_tokens_and_settings_go_with_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    shutil.copytree(TINY, folder)
    written(folder, {"eos_token_id": [4, 9], "do_sample": True, "temperature": 0.5})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 0}))
    with_file = load_pair(target=str(folder))
    assert {4, 9} <= with_file.tokenizer.eos_ids
    assert with_file.generation.settings == {"temperature": 0.5}
    written(folder, {"eos_token_id": [4, 9], "temperature": "hot"})
    without = load_pair(target=str(folder), generation_config=False)
    assert 0 in without.tokenizer.eos_ids
    assert 9 not in without.tokenizer.eos_ids
    assert without.generation.settings == {}
