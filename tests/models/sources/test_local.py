"""Models of other programs on this machine are found by the names that those have for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_mlx.errors import ModelError
from helix_mlx.models.sources.local import local_model, ollama_model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put_ollama(models: Path, name: str, *kinds: str) -> Path:
    """A model that Ollama has fetched; the path of its file."""
    manifest = models / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{kind}{len(name)}"} for kind in kinds
    ]
    manifest.write_text(json.dumps({"layers": layers}))
    blob = models / "blobs" / f"sha256-model{len(name)}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"GGUF")
    return blob


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b"),
        ("someone/model:q4", "registry.ollama.ai/someone/model/q4"),
        ("hf.co/some/model", "hf.co/some/model/latest"),
    ],
)
def test_a_model_of_ollama_s_is_found_by_its_name(home: Path, name: str, manifest: str) -> None:
    blob = put_ollama(home / ".ollama" / "models", manifest, "template", "model", "params")
    assert local_model(f"ollama:{name}") == blob
    elsewhere = put_ollama(home / "elsewhere", manifest, "model")
    assert ollama_model(name, home / "elsewhere") == elsewhere


def test_a_model_that_ollama_has_not_is_told_what_it_has(home: Path) -> None:
    models = home / ".ollama" / "models"
    put_ollama(models, "registry.ollama.ai/library/llama3.2/1b", "model")
    for name in ("lama3.2:1b", "llama3.2", "../../x", "", "a/b/c/d", "llama3.2:../1b"):
        with pytest.raises(ModelError, match=r"Ollama has no model .*it has llama3\.2:1b; run: ollama pull"):
            local_model(f"ollama:{name}")
    with pytest.raises(ModelError, match=r"did you mean llama3\.2:1b\?"):
        local_model("ollama:lama3.2:1b")


def test_a_model_of_ollama_s_that_is_not_whole(home: Path) -> None:
    models = home / ".ollama" / "models"
    put_ollama(models, "registry.ollama.ai/library/adapted/latest", "model", "adapter")
    with pytest.raises(ModelError, match="adapted is not a single GGUF file"):
        local_model("ollama:adapted")
    put_ollama(models, "registry.ollama.ai/library/gone/latest", "model").unlink()
    with pytest.raises(ModelError, match="gone is missing its file"):
        local_model("ollama:gone")
    (models / "manifests/registry.ollama.ai/library/gone/latest").write_text("{")
    with pytest.raises(ModelError, match=r"cannot read .*latest: .*; run: ollama pull gone"):
        local_model("ollama:gone")


def test_a_model_of_lm_studio_s_is_a_file_or_a_folder_for_mlx(home: Path) -> None:
    models = home / ".lmstudio" / "models" / "org"
    for name in ("one/m.gguf", "one/mmproj-m.gguf", "two/a.gguf", "two/b.gguf", "mlx/config.json"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_text("")
    assert local_model("lmstudio:org/one") == models / "one" / "m.gguf"
    assert local_model("lmstudio:org/two/b.gguf") == models / "two" / "b.gguf"
    assert local_model("lmstudio:org/mlx") == models / "mlx"
    with pytest.raises(ModelError, match=r"two has several GGUF models \(a.gguf, b.gguf\)"):
        local_model("lmstudio:org/two")
    for name in ("org/three", "", "../models/org/one"):
        with pytest.raises(ModelError, match=r"LM Studio has no model .*it has org/mlx, org/one, org/two"):
            local_model(f"lmstudio:{name}")


def test_a_path_is_a_file_or_a_folder_with_one(home: Path) -> None:
    (home / "folder").mkdir()
    assert local_model("~/folder") is None
    for part in (1, 2):
        (home / "folder" / f"m-0000{part}-of-00002.gguf").write_text("")
    first = home / "folder" / "m-00001-of-00002.gguf"
    assert local_model("~/folder") == local_model(str(first)) == first
    (home / "folder" / "config.json").write_text("{}")
    assert local_model("~/folder") is None
    for source in ("~/nothing.gguf", "org/nothing.gguf"):
        with pytest.raises(ModelError, match="there is no file"):
            local_model(source)
    for source in ("org/model", "~/nothing", "", "x" * 5000, "x\0y"):
        assert local_model(source) is None
