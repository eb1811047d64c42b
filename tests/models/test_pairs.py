from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from helix_mlx.errors import SettingsError
from helix_mlx.models.manifest import ConvertedModel, Manifest
from helix_mlx.models.pairs import NamedPair, converted_pair, fits, named_pair, named_pairs, source_path

REPOSITORY = "someone/some-model"
GB = 2**30


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository in an otherwise empty cache, with nothing fetched yet."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--some-model"
    folder = repository / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return folder


def test_every_pair_is_complete() -> None:
    pairs = named_pairs()
    assert len({pair.name for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.target_bytes > pair.draft_bytes
        assert (pair.draft_bytes > 0) == (pair.draft != "none")
        assert pair.kv_bytes_per_position
        assert pair.unverified != pair.packaged
        assert pair.licence
        assert pair.note


def test_the_first_pair_comes_with_helix() -> None:
    first, *rest = named_pairs()
    assert first.name == "tiny"
    assert first.packaged
    assert not any(pair.packaged for pair in rest)
    for source in (first.target, first.draft):
        folder = source_path(source)
        assert folder is not None
        assert (folder / "config.json").is_file()


@pytest.mark.parametrize(
    ("target", "draft", "kv", "size"),
    [
        (6 * GB, 0, 0, 8),
        (6 * GB, 1, 0, 16),
        (5 * GB, 1 * GB, 1, 16),
        (4 * GB, 1 * GB, GB // 8192, 8),
        (96 * GB, 0, None, 128),
        (96 * GB, 1, None, None),
    ],
)
def test_weights_and_a_context_take_three_quarters_of_the_memory_at_most(
    target: int, draft: int, kv: int | None, size: int | None
) -> None:
    pair = NamedPair("a", "b", "c", target, draft, "", False, "MIT", False, kv_bytes_per_position=kv)
    assert pair.ram_gb == size
    assert fits(pair, 128 * GB) == (size is not None)


def test_keys_and_values_are_those_of_a_model_s_layers_and_heads() -> None:
    assert named_pair("tiny").kv_bytes_per_position == 2 * 2 * 2 * 64 * (8 + 2)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ('{"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32}', 4 * 3 * 4 * 8),
        (
            '{"text_config": {"num_hidden_layers": 3, "num_attention_heads": 4, '
            '"num_key_value_heads": 2, "head_dim": 16}}',
            4 * 3 * 2 * 16,
        ),
        ("{}", None),
        ("[]", None),
        ('{"num_hidden_layers": 3, "num_attention_heads": 0, "hidden_size": 32}', None),
        ("", None),
    ],
)
def test_a_converted_pair_s_configuration_says_what_a_context_takes(
    tmp_path: Path, text: str, bytes_: int | None
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text(text)
    target = ConvertedModel("target", "org/model", None, None, 5)
    Manifest((target,), {"target/config.json": (len(text), "")}, "0").write(tmp_path)
    assert converted_pair("mine", tmp_path).kv_bytes_per_position == bytes_


def test_a_pair_that_is_not_there_is_told_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"no pair named nothing; the pairs are tiny, .*qwen3-14b"):
        named_pair("nothing")
    assert named_pair("qwen3-8b").name == "qwen3-8b"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert source_path(str(tmp_path / "model")) == tmp_path / "model"
    assert source_path("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "source",
    [
        "builtin:nothing",
        "no/such",
        "./no/such/folder",
        "words, not a name",
        "a/b/c",
        "~nobody/x",
        "",
        "x" * 5000,
        "x\0/y",
    ],
)
def test_what_is_not_here_is_none(snapshot: Path, source: str) -> None:
    assert source_path(source) is None


def test_a_whole_download_counts(snapshot: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert source_path(REPOSITORY) is None
        (snapshot / name).write_text("{}")
    assert source_path(REPOSITORY) == snapshot


def test_a_download_in_parts_counts_when_all_are_there(snapshot: Path) -> None:
    parts = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    index = {"weight_map": {"first": parts[0], "second": parts[1]}}
    for name in ("config.json", "tokenizer.model", parts[0]):
        (snapshot / name).write_text("{}")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert source_path(REPOSITORY) is None
    (snapshot / parts[1]).write_text("")
    assert source_path(REPOSITORY) == snapshot


def test_files_that_nobody_fetches_are_not_missed(snapshot: Path) -> None:
    """Newer versions of the hub's client keep a list of all that a repository has."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = snapshot.rename(snapshot.with_name(commit))
    repository = snapshot.parent.parent
    (repository / "refs" / "main").write_text(commit)
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    (repository / "trees").mkdir()
    files = {name: {"size": 2, "blob_id": "0" * 40} for name in (*names, "README.md", "original/params.json")}
    (repository / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    for name in names:
        (snapshot / name).write_text("{}")
    assert source_path(REPOSITORY) == snapshot


def test_an_index_of_an_older_model_beside_the_whole_file_counts(snapshot: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    index = {"weight_map": {"first": "model-1-of-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert source_path(REPOSITORY) == snapshot


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}'])
def test_a_damaged_index_does_not_count(snapshot: Path, text: str) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    (snapshot / "model.safetensors.index.json").write_text(text)
    assert source_path(REPOSITORY) is None
