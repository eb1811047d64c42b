from __future__ import annotations

import json
import re
from pathlib import Path

from helix_mlx import convert
from helix_mlx.convert.builtin.data.corpus import KINDS, Corpus
from helix_mlx.convert.builtin.evaluation import Acceptance, Report, Verdict
from helix_mlx.convert.builtin.model_card import TUNED, TrainingRecord, read_records, render
from tests.convert.builtin.conftest import TINY


def report() -> Report:
    counts = Acceptance(draft_length=4)
    counts.add(accepted=2, emitted=3)
    verdicts = Verdict("Is it exact?", "Yes.", True), Verdict("Is it slow?", "Yes.", False)
    return Report(
        {(kind, temperature): counts for kind in KINDS for temperature in (0.0, 0.8)},
        {(kind, name): 12.345 for kind in KINDS for name in ("target", "draft")},
        verdicts,
    )


def test_the_clocks_of_trainings_are_read(tmp_path: Path) -> None:
    (tmp_path / "draft_training").mkdir()
    (tmp_path / "draft_training" / "clock.json").write_text(json.dumps({"elapsed": 90.0, "steps": 12}))
    assert read_records(tmp_path, ["target", "draft"]) == [TrainingRecord("draft", 1.5, 12)]


def test_the_card_says_what_was_measured(corpus: Corpus) -> None:
    records = [TrainingRecord("target", 61.0, 1000), TrainingRecord("draft", 30.0, 2000)]
    card = render(report(), corpus, TINY, records, prompts_a_kind=40)
    assert "Right: 1 of 2." in card
    assert "2. **Is it slow?** (wrong)" in card
    assert "| standard-library code | 0.50 | 1.00 1.00 0.00 0.00 | 3.00 |" in card
    assert "12.35 | 12.35" in card or "12.34 | 12.34" in card
    assert "--minutes 100" in card
    assert "target 61 minutes (1,000 steps), draft 30 minutes (2,000 steps)" in card
    assert TUNED not in card
    assert TUNED in render(report(), corpus, TINY, [TrainingRecord("pair", 1.0, 1)], 40)


def test_the_files_that_it_names_are_there(corpus: Corpus) -> None:
    shipped = (TINY / "MODEL_CARD.md").read_text(encoding="utf-8")
    for card in (shipped, render(report(), corpus, TINY, [], 40)):
        named = re.findall(r"`convert/(\S+\.toml)`", card)
        assert named
        assert all((Path(convert.__file__).parent / name).is_file() for name in named)
