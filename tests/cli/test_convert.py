"""`helix-mlx convert` and what `helix-mlx pairs` does with what it made, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_mlx.kernels.cpu.choice import NO_KERNELS
from helix_mlx.models.manifest import read_manifest
from tests.cli.conftest import Run
from tests.convert.checkpoints import write_checkpoint


@pytest.fixture
def made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a pair in it, made by the command."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    target, draft = write_checkpoint(tmp_path / "big"), write_checkpoint(tmp_path / "small", seed=7)
    (target / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        (target / name).write_text("{{ messages[0].content }}")
    words = ["--target", str(target), "--draft", str(draft), "--out", "mine", "--group-size", "32"]
    result = run("convert", *words, "--no-measure")
    assert result.exit_code == 0, result.output
    assert "target: " in result.stdout
    assert "group size 32, bits 4, mode affine" in result.stdout
    assert "helix-mlx chat --pair mine" in result.stdout
    return tmp_path / "home" / ".helix" / "pairs" / "mine"


def test_what_was_made_is_listed_checked_and_removed(run: Run, made: Path) -> None:
    assert (made / "helix.json").is_file()
    assert "\nmine " in run("pairs").stdout
    (row,) = [row for row in json.loads(run("pairs", "--json").stdout) if row["name"] == "mine"]
    assert row["converted"]
    assert row["on_disk"]
    assert "match their hashes" in run("pairs", "verify", "mine").stdout
    assert run("pairs", "remove", "mine").exit_code != 0  # nobody said yes
    assert made.is_dir()
    (made / "notes.txt").write_text("mine")
    assert run("pairs", "remove", "mine", "--yes").exit_code == 0
    assert [each.name for each in made.iterdir()] == ["notes.txt"]
    assert "\nmine " not in run("pairs").stdout


def test_a_pair_is_measured_and_keeps_the_figures(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.bench.suite.acceptance.WORKLOADS", ("chat",))
    # The kernels lie in the home that was left, and would be compiled anew.
    monkeypatch.setattr("helix_mlx.engine.engine.choose_kernels", lambda *_: NO_KERNELS)
    result = run("pairs", "measure", "mine", "--prompts", "1", "--max-tokens", "8", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {row["drafter"] for row in report["kept"]} == {"model", "ngram"}
    assert len(report["promises"]) == 4
    assert read_manifest(made).acceptance == report
    assert run("pairs", "verify", "mine").exit_code == 0


def test_a_new_pair_is_measured_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.bench.suite.acceptance.WORKLOADS", ("chat",))
    monkeypatch.setattr("helix_mlx.engine.engine.choose_kernels", lambda *_: NO_KERNELS)
    monkeypatch.setattr("helix_mlx.engine.engine.cache_folder", lambda *_: tmp_path / "cost_tables")
    target, draft = write_checkpoint(tmp_path / "big"), write_checkpoint(tmp_path / "small", seed=7)
    words = ["--target", str(target), "--draft", str(draft), "--group-size", "32"]
    told = run("convert", *words, "--out", str(tmp_path / "told"))
    assert told.exit_code == 0, told.output
    assert "Chance that a draft is accepted" in told.stdout
    assert "temperature 0.7, model: " in told.stdout
    data = json.loads(run("convert", *words, "--out", str(tmp_path / "json"), "--json").stdout)
    assert data["acceptance"]["kept"]
    acceptance = read_manifest(tmp_path / "told").acceptance
    assert acceptance is not None
    assert [row["by_position"] for row in acceptance["kept"]] == [
        row["by_position"] for row in data["acceptance"]["kept"]
    ]


def test_a_tampered_file_is_named_with_exit_code_2(run: Run, made: Path) -> None:
    file = made / "draft" / "config.json"
    file.write_text(file.read_text().replace("llama", "LLAMA"))
    result = run("pairs", "verify", "mine")
    assert result.exit_code == 2
    assert "draft/config.json is damaged: its hash differs" in result.stderr
    file.unlink()
    listed = run("pairs")
    assert listed.exit_code == 0
    assert "is missing" in listed.stderr
    assert "\ntiny " in listed.stdout


def test_json_is_the_manifest(run: Run, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "big")
    words = ["--target", str(source), "--out", str(tmp_path / "out"), "--mode", "mxfp4", "--json"]
    data = json.loads(run("convert", *words).stdout)
    assert data["folder"] == str(tmp_path / "out")
    assert data["models"][0]["quantization"] == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert data["files"]["target/config.json"][0] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "needs --target and --out"),
        (["--target", "x"], "needs --target and --out"),
        (["--target", "./nowhere", "--out", "o"], "no folder ./nowhere"),
        (["--target", "./nowhere", "--out", "../o"], "leads upwards"),
        (["--target", "./nowhere", "--out", "o", "--bits", "7"], "not one of"),
        (["--target", "./nowhere", "--out", "o", "--mode", "int4"], "mode is int4"),
        (["--target", "./nowhere", "--out", "o", "--group-size", "100"], "group-size is 100"),
        (["--target", "./nowhere", "--out", "o", "--recipe", "best"], "recipe is best"),
        (["--target", "./nowhere", "--out", "o", "--dtype", "int4"], "dtype is int4"),
    ],
)
def test_a_mistake_is_told_in_a_line_with_exit_code_2(
    run: Run, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("convert", *words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["verify", "nothing"], ["remove", "nothing"]])
def test_a_pair_that_is_not_there_is_told(run: Run, words: list[str]) -> None:
    result = run("pairs", *words)
    assert result.exit_code == 2
    assert "no converted pair nothing" in result.stderr
