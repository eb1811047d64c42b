"""Folders whose files are not what they should be, in every way one can think of: one line says so, or they work."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.errors import HelixError, ModelError, PromptError
from helix_mlx.models.loader import load
from helix_mlx.models.text.tokenizer import Tokenizer
from tests.convert.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "whole", num_hidden_layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def opened(folder: Path) -> Tokenizer:
    config = load(str(folder)).config
    return Tokenizer.load(folder, config.get("eos_token_id"))


def survives(attempt: Callable[[], Any]) -> None:
    """It works, or it is refused in one line."""
    told = "refused"
    try:
        attempt()
    except HelixError as error:
        told = str(error)
    assert len(told.splitlines()) == 1


ODD: tuple[Any, ...] = ("x", 5, -1, 0, 1.5, [], {}, [[0]], True)


@pytest.mark.parametrize(
    "name",
    ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rope_scaling",
     "rope_parameters", "rms_norm_eps", "tie_word_embeddings", "eos_token_id", "text_config", "quantization",
     "quantization_config", "max_position_embeddings", "architectures", "model_type", "hidden_size", "vocab_size"],
)  # fmt: skip
def test_a_setting_of_any_other_kind(folder: Path, name: str) -> None:
    config = (folder / "config.json").read_text()
    for odd in (*ODD, None):
        (folder / "config.json").write_text(config)
        changed(folder / "config.json", **{name: odd})
        survives(lambda: opened(folder))


@pytest.mark.parametrize("odd", ["x", 1.5, True, [[0]], {}, ["x"]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_end_tokens_that_are_no_ids_are_told_with_the_value(folder: Path, file: str, odd: Any) -> None:
    (folder / "generation_config.json").write_text("{}")
    changed(folder / file, eos_token_id=odd)
    if odd == {} and file != "config.json":
        return  # mlx-lm takes what is empty for nothing
    with pytest.raises(ModelError, match=r"eos_token_id is .*must be an id or a list of ids"):
        load(str(folder))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe\x00", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_settings_that_are_none_name_their_file(folder: Path, name: str, text: bytes) -> None:
    (folder / name).write_bytes(text)
    with pytest.raises(ModelError, match=rf"{name} (is damaged|contains no settings)"):
        load(str(folder))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(ModelError):
        opened(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer(folder: Path, name: str) -> None:
    texts = [b"", b"{", b"[]", b"{}", b"null", b"5", b"\xff\xfe\x00", b'{"model": {"type": "BPE"}}', b'{"model": 5}']
    texts += [b'{"tokenizer_class": 5}', b'{"tokenizer_class": "Nobody"}', b'{"added_tokens": 5}', b"[" * 100_000]
    for text in texts:
        (folder / name).write_bytes(text)
        survives(lambda: Tokenizer.load(folder, None).encode("a"))
    (folder / name).write_bytes(b"null")
    with pytest.raises(ModelError, match="cannot read the tokenizer in"):
        Tokenizer.load(folder, None)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{{ nothing() }}", "{{ 1 + 'a' }}", "{{ 1 / 0 }}", "{% if %}", "{{ ''.__class__ }}",
     "{{ messages[99].content.x.y }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | nofilter }}",
     "{% include 'x' %}", "{{ 'x' * 10 ** 15 }}", 7, [], {}, ["a"], {"default": 5}],
)  # fmt: skip
def test_a_template_that_raises_anything(folder: Path, template: Any) -> None:
    changed(folder / "tokenizer_config.json", chat_template=template)
    survives(lambda: Tokenizer.load(folder, None).encode_chat([{"role": "user", "content": "a"}]))


def test_a_template_that_divides_by_zero_is_told_as_the_template_s_fault(folder: Path) -> None:
    changed(folder / "tokenizer_config.json", chat_template="{{ 1 / 0 }}")
    with pytest.raises(PromptError, match="the model's chat template refuses these messages: division by zero"):
        Tokenizer.load(folder, None).encode_chat([{"role": "user", "content": "a"}])


def test_nothing_of_what_the_libraries_note_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(folder / "config.json", rope_scaling={"rope_type": "linear", "factor": 2.0, "unknown": 1})
    changed(folder / "tokenizer_config.json", model_max_length=4)
    logger, shown = logging.getLogger("transformers"), io.StringIO()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(shown)])
    before = logger.level
    logger.setLevel(logging.WARNING)  # as it is where nobody has said otherwise
    try:
        opened(folder).encode("a long text " * 9)
        assert shown.getvalue() == ""
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("name", ["model [4bit]", "a*b", "what?", 'it\'s "one"', "[x]"])
def test_a_folder_may_have_any_name(folder: Path, name: str) -> None:
    moved = folder.rename(folder.with_name(name))
    assert opened(moved).encode("a")


def test_a_stray_file_changes_nothing_and_is_told_once(folder: Path, whole: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    def weights() -> dict[str, mx.array]:
        model: Any = load(str(folder), notice=told.append).model
        return dict(tree_flatten(model.parameters()))

    told: list[str] = []
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    before = weights()
    assert told == []
    other = {name: array * 2 for name, array in arrays.items()}
    mx.save_safetensors(str(folder / "model_old.safetensors"), other)
    after = weights()
    assert len(told) == 1
    assert "model_old.safetensors" in told[0]
    assert all(mx.array_equal(array, after[name]) for name, array in before.items())


def test_a_name_that_is_too_long_is_no_folder() -> None:
    for name in ("a" * 5000, "a" * 300 + "/b", "x\0y"):
        with pytest.raises(ModelError):
            load(name)
