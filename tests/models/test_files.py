"""Which files of a folder are the model: what its index says, and what to do where it says nothing, or nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_mlx.errors import ModelError
from helix_mlx.models.files import INDEX, copy_others, holds_model, weight_files

PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def filled(folder: Path, *names: str, index: list[str] | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"weight_map": {str(i): name for i, name in enumerate(index)}}))
    return folder


def read(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in weight_files(folder).files]


@pytest.mark.parametrize(
    "stray",
    ["model.safetensors", "model-old.safetensors", "model_copy.safetensors", "model-00001-of-00002 (1).safetensors"],
)  # fmt: skip
def test_what_the_index_does_not_name_is_left_alone_and_told(tmp_path: Path, stray: str) -> None:
    folder = filled(tmp_path, *PARTS, stray, index=PARTS)
    assert read(folder) == PARTS
    (note,) = weight_files(folder).notes
    assert stray in note
    (folder / stray).unlink()
    assert weight_files(folder).notes == ()


def test_the_index_may_name_any_file_in_the_folder(tmp_path: Path) -> None:
    names = ["part one.safetensors", "sub/b.safetensors"]
    assert read(filled(tmp_path, *names, index=names)) == names


@pytest.mark.parametrize("index", [PARTS, None])
def test_a_missing_shard_is_named(tmp_path: Path, index: list[str] | None) -> None:
    with pytest.raises(ModelError, match=f"is missing weights: {PARTS[1]}"):
        weight_files(filled(tmp_path, PARTS[0], index=index))


def test_an_index_of_shards_that_are_gone_gives_way_to_the_whole_file(tmp_path: Path) -> None:
    folder = filled(tmp_path, "model.safetensors", index=PARTS)
    assert read(folder) == ["model.safetensors"]
    assert PARTS[0] in weight_files(folder).notes[0]
    filled(tmp_path, PARTS[0])  # a download that broke off is no older model
    with pytest.raises(ModelError, match="is missing weights"):
        weight_files(folder)


def test_without_an_index_the_whole_file_comes_before_parts(tmp_path: Path) -> None:
    assert read(filled(tmp_path, "model-extra.safetensors")) == ["model-extra.safetensors"]
    assert read(filled(tmp_path, *PARTS)) == PARTS
    assert read(filled(tmp_path, "model.safetensors")) == ["model.safetensors"]
    assert "model-extra" in weight_files(tmp_path).notes[0]


def test_parts_of_two_models_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="files of several models"):
        weight_files(filled(tmp_path, PARTS[0], "model-00002-of-00003.safetensors"))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", '{"weight_map": null}', '{"weight_map": {}}', '{"weight_map": {"a": 5}}', "[" * 100_000,
     '{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": "../b.safetensors"}}',
     '{"weight_map": {"a": "/b.safetensors"}}',
     '{"weight_map": {"a": "model.bin"}}'],
)  # fmt: skip
def test_a_damaged_index_is_told(tmp_path: Path, text: str) -> None:
    filled(tmp_path, "model.safetensors", "config.json", "tokenizer.json")
    assert holds_model(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ModelError, match=f"{INDEX} is damaged"):
        weight_files(tmp_path)
    assert not holds_model(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tiktoken.model", "qwen.tiktoken", "spiece.model", "tekken.json"])
def test_every_kind_of_tokenizer_makes_a_model_whole(tmp_path: Path, name: str) -> None:
    filled(tmp_path, "config.json", "model.safetensors")
    assert not holds_model(tmp_path)
    assert holds_model(filled(tmp_path, name))


def test_a_copy_has_all_of_the_tokenizer_and_its_templates(tmp_path: Path) -> None:
    names = ["tiktoken.model", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.json",
             "tokenizer.model.v3", "chat_template.jinja", "additional_chat_templates/tool_use.jinja",
             "generation_config.json"]  # fmt: skip
    source = filled(tmp_path / "a [1]", *names, "tokenizer/inner.json", "README.md", "model.safetensors", "code.py")
    (tmp_path / "b").mkdir()
    copy_others(source, tmp_path / "b", "*.py")
    copied = {file.relative_to(tmp_path / "b").as_posix() for file in (tmp_path / "b").rglob("*") if file.is_file()}
    assert copied == {*names, "code.py"}
