"""The recipe from its command to the folder that ships, with nothing trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helix_mlx.convert.builtin import __main__ as recipe
from helix_mlx.convert.builtin.architecture import save_float_checkpoint
from helix_mlx.convert.builtin.data.corpus import Corpus
from helix_mlx.convert.builtin.data.tokenizer import load_tokenizer
from helix_mlx.models.loader import read_model
from tests.convert.builtin.conftest import DRAFT, TARGET, TOKENIZER
from tests.convert.builtin.test_model_card import report


def test_a_tokenizer_is_trained_once(tmp_path: Path, corpus_of_the_module: Corpus) -> None:
    recipe.make_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path).encode("return x").ids
    before = (tmp_path / "tokenizer.json").stat().st_mtime_ns
    recipe.make_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").stat().st_mtime_ns == before


def test_the_minutes_are_divided_and_a_pair_with_its_card_comes_out(
    tmp_path: Path, corpus_of_the_module: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, float, int]] = []

    def train(arguments: list[str], workers: int, folder: Path) -> None:
        trained.append((arguments[0], float(arguments[arguments.index("--minutes") + 1]), workers))
        if arguments[0] == "pair":
            for place in (folder, folder / "tuned"):
                for name, architecture in (("target", TARGET), ("draft", DRAFT)):
                    save_float_checkpoint(architecture.build(), architecture, TOKENIZER, place / name)

    def measured(*_: Any) -> Any:
        return report()

    monkeypatch.setattr("helix_mlx.convert.builtin.compute.processes.run_workers", train)
    monkeypatch.setattr("helix_mlx.convert.builtin.evaluation.evaluate", measured)
    done = CliRunner().invoke(recipe.main, ["--out", str(tmp_path), "--minutes", "10", "--workers", "2"])
    assert done.exception is None, done.output
    assert trained == [("target", 5.0, 2), ("draft", 3.0, 2), ("pair", 2.0, 2)]
    for name in ("target", "draft"):
        _, config = read_model(tmp_path / "tiny" / name)
        assert config["quantization"]["bits"] == 4
    assert "Right: 1 of 2." in (tmp_path / "tiny" / "MODEL_CARD.md").read_text()
