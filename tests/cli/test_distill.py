"""`helix-mlx convert distill` and `convert --suggest-draft`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.convert.draft_search import Suggestion
from tests.cli.conftest import Run

REPORT: dict[str, Any] = {
    "before": [{"acceptance": 0.4, "temperature": 0.0, "tokens_per_cycle": 1.9}],
    "after": [{"acceptance": 0.6, "temperature": 0.0, "tokens_per_cycle": 2.6}],
}


def test_settings_arrive_and_the_gain_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def distill(wanted: Any, line: Any, progress: Any) -> dict[str, Any]:
        asked.append(wanted)
        line("epoch 1: fine")
        progress("the draft learns", 1, 2)
        return REPORT

    monkeypatch.setattr("helix_mlx.convert.distill.distillation.distill", distill)
    out = tmp_path / "new"
    words = [
        "--prompts",
        "p.txt",
        "--out",
        str(out),
        "--teach",
        "lora",
        "--texts",
        "2",
        "--epochs",
        "3",
        "--rate",
        "0.1",
    ]
    result = run("convert", "distill", "tiny", *words)
    assert result.exit_code == 0, result.output
    (wanted,) = asked
    assert (wanted.pair, wanted.out, wanted.how, wanted.samples) == ("tiny", out, "lora", 2)
    assert (wanted.schedule.epochs, wanted.schedule.rate) == (3, 0.1)
    assert "acceptance 0.400 before, 0.600 now; tokens/cycle 1.90 before, 2.60 now" in result.stdout
    assert f"helix-mlx chat --pair {out}" in result.stdout
    assert "epoch 1: fine" in result.stderr
    data = json.loads(run("convert", "distill", "tiny", *words, "--json").stdout)
    assert data == {"folder": str(out), **REPORT}


def test_the_new_pair_is_called_after_the_old_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[Path] = []

    def distill(wanted: Any, *_: Any) -> dict[str, Any]:
        asked.append(wanted.out)
        return REPORT

    monkeypatch.setattr("helix_mlx.convert.distill.distillation.distill", distill)
    assert run("convert", "distill", "some/where/tiny", "--prompts", "p.txt").exit_code == 0
    assert asked[0] == tmp_path / ".helix" / "pairs" / "tiny-distilled"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Missing argument 'PAIR'"),
        (["tiny"], "Missing option '--prompts'"),
        (["tiny", "--prompts", "nowhere.txt", "--out", "o"], "cannot read the prompts in nowhere.txt"),
        (["tiny", "--prompts", "x", "--out", "../o"], "leads upwards"),
        (["tiny", "--prompts", "x", "--out", "o", "--held-out", "2"], "held-out is 2"),
        (["tiny", "--prompts", "x", "--teach", "some"], "not one of"),
    ],
)
def test_a_mistake_is_told_in_a_line_with_exit_code_2(
    run: Run, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("convert", "distill", *words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_drafts_are_suggested_in_a_table_or_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Suggestion("org/small", 700_000_000, 0.15, "identical", 1.0, True, 2.4, True),
        Suggestion("org/other", 300_000_000, None, "shared", 0.64, False, None, False),
    ]
    monkeypatch.setattr("helix_mlx.convert.draft_search.suggest_drafts", lambda *_: found)
    result = run("convert", "--suggest-draft", "org/big")
    assert result.exit_code == 0, result.output
    assert "org/small  700 MB  15%          identical   2.40          yes" in result.stdout
    assert "org/other  300 MB  -            64% shared  -             no" in result.stdout
    assert "convert --target org/big --draft org/small --out NAME" in result.stdout
    rows = json.loads(run("convert", "--suggest-draft", "org/big", "--json").stdout)
    assert [row["draft"] for row in rows] == ["org/small", "org/other"]
