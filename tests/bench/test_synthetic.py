from __future__ import annotations

import numpy as np
import pytest

from helix_mlx.bench.synthetic import SHAPES, successors, synthetic_pair
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError
from tests.bench.conftest import ACCEPTANCE
from tests.support import plain


def test_the_target_goes_through_all_tokens_and_the_draft_agrees_for_a_share() -> None:
    for acceptance in (0.0, 0.6, 0.95, 1.0):
        follows, drafted = successors(1000, acceptance, seed=3)
        assert sorted(follows) == sorted(drafted) == list(range(1000))
        seen, token = set(), 0
        for _ in range(1000):
            token = int(follows[token])
            seen.add(token)
        assert len(seen) == 1000
        assert np.mean(follows == drafted) == pytest.approx(acceptance, abs=0.001)


def test_the_acceptance_is_the_one_that_was_asked_for(engine: Engine) -> None:
    follows, drafted = successors(512, ACCEPTANCE, seed=0)
    done = engine.generate([5], max_tokens=400, draft_tokens=1)
    expected, token = [], 5
    for _ in range(400):
        token = int(follows[token])
        expected.append(token)
    assert done.tokens == expected
    assert done.tokens[:50] == plain(engine.pair.target.model, [5], 50)
    path = np.array([5, *expected[:-1]])
    assert done.stats.accepted / done.stats.drafted == pytest.approx(np.mean((follows == drafted)[path]), abs=0.1)


def test_a_temperature_changes_next_to_nothing(engine: Engine) -> None:
    greedy = engine.generate([5], max_tokens=60, draft_tokens=0).tokens
    assert engine.generate([5], max_tokens=60, draft_tokens=4, temperature=1.0, seed=1).tokens == greedy


@pytest.mark.parametrize(
    ("name", "acceptance", "told"),
    [
        ("small", 0.8, "TARGET/DRAFT"),
        ("small/huge", 0.8, "TARGET/DRAFT"),
        ("../etc/passwd", 0.8, "TARGET/DRAFT"),
        ("small/smaller", 1.2, "between 0 and 1"),
    ],
)
def test_what_cannot_be_made_up_is_told(name: str, acceptance: float, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        synthetic_pair(name, acceptance)


def test_shapes_are_whole() -> None:
    for sizes in SHAPES.values():
        assert sizes["hidden"] % sizes["heads"] == 0
        assert sizes["heads"] % sizes["kv_heads"] == 0
        assert sizes["hidden"] % 64 == 0
