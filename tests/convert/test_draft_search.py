"""Which drafts are suggested for a target, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.convert import draft_search
from helix_mlx.convert.draft_search import suggest_drafts
from helix_mlx.convert.pair_folder import Wanted, convert_pair
from helix_mlx.convert.recipe import Recipe
from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.manifest import read_manifest
from helix_mlx.models.pairs import NamedPair
from tests.convert.checkpoints import write_checkpoint, write_tokenizer

RECIPE = Recipe(group_size=32)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "target", hidden_size=128, intermediate_size=384, num_hidden_layers=4)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is named, nothing cached, and the user's pairs lie here."""
    folder = tmp_path / "pairs"
    monkeypatch.setattr(draft_search, "named_pairs", list)
    monkeypatch.setattr(draft_search, "_cached", lambda: iter(()))
    monkeypatch.setattr("helix_mlx.models.pairs.pairs_folder", lambda: folder)
    return folder


def named(target: str, draft: Path | str, size: int = 1) -> NamedPair:
    return NamedPair("named", target, str(draft), 10 * size, size, "", False, "MIT", False)


def offer(monkeypatch: pytest.MonkeyPatch, *pairs: NamedPair) -> None:
    monkeypatch.setattr(draft_search, "named_pairs", lambda: list(pairs))


def names(target: Path | str, lines: list[str] | None = None) -> list[str]:
    return [Path(each.draft).name for each in suggest_drafts(str(target), (lines or []).append)]


def test_one_that_fits_is_found_among_the_pairs_of_this_machine(target: Path, pairs: Path, tmp_path: Path) -> None:
    draft = write_checkpoint(tmp_path / "draft", seed=3, num_hidden_layers=1)
    convert_pair(Wanted(str(target), str(draft), pairs / "mine", RECIPE, RECIPE), lambda _: None, lambda *_: None)
    (found,) = suggest_drafts(str(target), lambda _: None)  # its own copy in the pair is no draft: it is too large
    assert Path(found.draft) == pairs / "mine" / "draft"
    assert (found.vocabulary, found.shared, found.here, found.tokens_per_cycle) == ("identical", 1.0, True, None)
    assert found.size is not None
    assert found.size < 0.5


def test_what_was_measured_comes_before_what_is_named(
    target: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = write_checkpoint(tmp_path / "draft", seed=3, num_hidden_layers=1)
    other = write_checkpoint(tmp_path / "other", seed=4, num_hidden_layers=1)
    convert_pair(Wanted(str(target), str(draft), pairs / "mine", RECIPE, RECIPE), lambda _: None, lambda *_: None)
    offer(monkeypatch, named(str(target), other))
    assert names(target) == ["other", "draft"]
    rows: list[dict[str, Any]] = [{"drafter": "model", "temperature": 0, "tokens_per_cycle": 2.5}]
    folder = pairs / "mine"
    replace(read_manifest(folder), acceptance={"kept": rows}).write(folder)
    assert names(target) == ["draft", "other"]


def test_another_vocabulary_comes_last_and_a_foreign_one_not_at_all(
    target: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = {name: write_checkpoint(tmp_path / name, seed=3, num_hidden_layers=1) for name in ("same", "half", "none")}
    write_tokenizer(drafts["half"], first=60)
    write_tokenizer(drafts["none"], first=5000)
    offer(monkeypatch, *(named("another/target", each) for each in reversed(drafts.values())))
    assert names(target) == ["same", "half"]


def test_of_what_is_not_here_the_tokenizer_is_fetched_and_nothing_else(
    target: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        fetched.append(allow_patterns)
        if repository == "org/gone":
            raise ConnectionError("no network")
        return str(write_checkpoint(tmp_path / "fetched"))

    monkeypatch.setattr(draft_search, "snapshot_download", fetch)
    offer(monkeypatch, named("another/target", "org/draft"), named("another/target", "org/gone"))
    lines: list[str] = []
    found = suggest_drafts(str(target), lines.append)
    assert [(each.draft, each.vocabulary, each.here) for each in found] == [("org/draft", "identical", False)]
    assert not any("safetensors" in pattern for patterns in fetched for pattern in patterns)
    assert any("cannot reach the hub for org/gone" in line for line in lines)
    offer(monkeypatch, named(str(target), "org/gone"))  # Helix knows of these two that they fit
    assert [each.vocabulary for each in suggest_drafts(str(target), lines.append)] == ["unknown"]


def test_a_named_target_without_a_draft_offers_none(target: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, named(str(target), "none"))
    with pytest.raises(SettingsError, match="--drafter ngram"):
        suggest_drafts(str(target), lambda _: None)


def test_where_nothing_fits_ngrams_are_proposed(target: Path, pairs: Path) -> None:
    with pytest.raises(SettingsError, match="--drafter ngram"):
        suggest_drafts(str(target), lambda _: None)
    with pytest.raises(ModelError, match="no folder"):
        suggest_drafts("./nowhere", lambda _: None)
