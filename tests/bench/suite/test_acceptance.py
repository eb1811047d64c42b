from __future__ import annotations

import pytest

from helix_mlx.bench.suite.acceptance import measure, promises, show
from helix_mlx.engine.acceptance_counts import AcceptanceCounts
from helix_mlx.engine.engine import Engine
from helix_mlx.speculative.cost_model import CostTable
from tests.bench.conftest import ACCEPTANCE


def test_chances_are_of_those_that_were_reached() -> None:
    kept = AcceptanceCounts("code", 0.0, "model", cycles=10, drafted=70, by_position=(8, 4, 0, 0, 0, 0, 0))
    assert kept.chances == [0.8, 0.5, 0.0]
    assert kept.acceptance == pytest.approx(12 / (10 + 8 + 4))
    assert kept.tokens_per_cycle == pytest.approx(2.2)
    never = AcceptanceCounts("code", 0.0, "ngram", 0, 0, (0,) * 7)
    assert (never.tokens_per_cycle, never.acceptance) == (1.0, 0.0)


def test_what_is_kept_promises_a_draft_length() -> None:
    cost_table = CostTable((1.0, 1.1, 1.2, 1.3, 1.4, 2.0, 2.2, 2.4), draft_s=0.1)
    good = AcceptanceCounts("code", 0.0, "model", cycles=100, drafted=700, by_position=(90, 81, 73, 66, 59, 53, 48))
    bad = AcceptanceCounts("code", 1.0, "model", cycles=100, drafted=700, by_position=(5, 0, 0, 0, 0, 0, 0))
    never = AcceptanceCounts("code", 1.0, "ngram", cycles=0, drafted=0, by_position=(0,) * 7)
    first, second, third = promises([good, good, bad, never], cost_table)
    assert first.best == 4
    assert first.gains[4] == pytest.approx((1 + 0.9 + 0.81 + 0.73 + 0.66) / 1.8)
    assert "4 drafts per cycle would be 2.28 times" in first.told
    assert (second.best, third.best) == (0, 0)
    assert "drafting would not pay off" in second.told


def test_each_position_is_kept_as_often_as_the_pair_was_made_for(engine: Engine) -> None:
    found = measure(engine, (0.0,), prompts=2, max_tokens=40, progress=lambda *_: None)
    model = [each for each in found if each.drafter == "model"]
    assert len(model) == len(found) // 2 == 6
    reached = sum(each.cycles for each in model)
    assert sum(each.by_position[0] for each in model) / reached == pytest.approx(ACCEPTANCE, abs=0.12)
    lines: list[str] = []
    show(found, lines.append)
    assert lines
