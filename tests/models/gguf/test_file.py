"""GGUF files that are not what they should be: each is refused in one line, and nothing is left behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from helix_mlx.errors import ModelError
from helix_mlx.models.gguf.folder import gguf_folder
from tests.models.gguf.files import TinyGguf, put_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyGguf("llama", "Q8_0").write(tmp_path_factory.mktemp("gguf") / "a.gguf")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refusal(path: Path, home: Path) -> str:
    """Why a file is refused."""
    with pytest.raises(ModelError) as raised:
        gguf_folder(path)
    assert [each for each in home.rglob("*") if each.is_file()] == []
    assert list(home.rglob("a*")) == []
    told = str(raised.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off(good: Path, tmp_path: Path, home: Path, share: float) -> None:
    data = good.read_bytes()
    (tmp_path / "a.gguf").write_bytes(data[: int(len(data) * share)])
    told = refusal(tmp_path / "a.gguf", home)
    assert "a.gguf, which may be cut off: " in told
    assert told.endswith("; download it again")


@pytest.mark.parametrize("data", [b"", b"GG", b"<html>not found</html>"])
def test_a_file_of_another_kind(tmp_path: Path, home: Path, data: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    assert "a.gguf is not a GGUF file; download it again" in refusal(tmp_path / "a.gguf", home)


def test_a_file_that_is_not_there(tmp_path: Path, home: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "a.gguf", home)


@pytest.mark.parametrize("named", [1, 2])
def test_a_part_that_is_missing(good: Path, tmp_path: Path, home: Path, named: int) -> None:
    shutil.copy(good, tmp_path / "a-00002-of-00002.gguf")
    told = refusal(tmp_path / f"a-0000{named}-of-00002.gguf", home)
    assert "there is no file" in told
    assert "a-00001-of-00002.gguf; check the name, or download it" in told


def test_a_part_that_has_lost_its_name(tmp_path: Path, home: Path) -> None:
    path = TinyGguf().write(tmp_path / "a.gguf", lambda writer: writer.add_uint16("split.count", 2))
    assert "a.gguf is one of 2 parts, and the others cannot be found" in refusal(path, home)


def test_a_split_file_is_read_whole_from_any_of_its_parts(tmp_path: Path) -> None:
    tiny = TinyGguf()
    whole = gguf_folder(tiny.write(tmp_path / "a.gguf"))
    names = list(tiny.matrices)
    rest = {name: tiny.matrices.pop(name) for name in names[5:]}
    tiny.write(tmp_path / "b-00001-of-00002.gguf", lambda writer: writer.add_uint16("split.count", 2))
    tiny.matrices, tiny.vectors = rest, {}
    second = tiny.write(tmp_path / "b-00002-of-00002.gguf", lambda writer: writer.add_uint16("split.count", 2))
    parts = gguf_folder(second)
    assert (parts / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (parts, whole)]
    assert sizes[0] == sizes[1]


def _put(key: str, value: Any) -> Callable[[GGUFWriter], None]:
    def put(writer: GGUFWriter) -> None:
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key, value)

    return put


@pytest.mark.parametrize(
    ("architecture", "change", "told"),
    [
        ("gemma2", None, "is of the architecture 'gemma2' (did you mean gemma3?), and Helix reads only llama, qwen2"),
        ("llama", _put("llama.expert_count", 8), "is a mixture of 8 experts, which Helix does not read"),
        ("llama", _put("llama.rope.dimension_count", 32), "turns 32 of 64 dimensions of a head"),
        ("llama", _put("llama.rope.scaling.type", "longrope"), "scales its rope by 'longrope'"),
        ("llama", _put("llama.vocab", "x"), ""),
    ],
)
def test_a_model_that_helix_does_not_know(
    tmp_path: Path, home: Path, architecture: str, change: Callable[[GGUFWriter], None] | None, told: str
) -> None:
    path = TinyGguf(architecture).write(tmp_path / "a.gguf", change)
    if told:
        assert told in refusal(path, home)
    else:
        gguf_folder(path)


def test_weights_that_have_no_place(tmp_path: Path, home: Path) -> None:
    tiny = TinyGguf()
    tiny.vectors["blk.0.attn_sinks.weight"] = tiny.vectors["output_norm.weight"]
    assert "has weights that Helix does not know (blk.0.attn_sinks.weight)" in refusal(
        tiny.write(tmp_path / "a.gguf"), home
    )


def test_settings_of_a_kind_that_is_not_known(tmp_path: Path, home: Path) -> None:
    def put(writer: GGUFWriter) -> None:
        put_tokenizer(writer)
        writer.kv_data[0]["llama.attention.head_count_kv"].value = [2, 1]
        writer.kv_data[0]["llama.attention.head_count_kv"].type = writer.kv_data[0]["tokenizer.ggml.tokens"].type

    path = TinyGguf().write(tmp_path / "a.gguf", vocabulary=put)
    assert "llama.attention.head_count_kv is of type list instead of int" in refusal(path, home)


def test_a_disk_without_room_is_told_with_the_numbers(good: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000})())
    told = refusal(good, home)
    assert "a.gguf in MLX's format needs 0.00 GB" in told
    assert "has 0.00 GB free" in told


def test_a_cache_that_cannot_be_written(good: Path, home: Path) -> None:
    home.mkdir()
    (home / ".cache").write_text("")
    (home / "Library").write_text("")
    with pytest.raises(ModelError, match=r"cannot write .*; free some space, or see to its permissions"):
        gguf_folder(good)


def test_without_the_package_it_is_told_how_to_get_it(good: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refusal(good, home).endswith("run: pip install 'helix-mlx[gguf]'")
