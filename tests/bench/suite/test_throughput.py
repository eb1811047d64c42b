"""Several requests at once: every arm answers the same prompts with the same tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_mlx.bench.fixtures.baselines import greedy
from helix_mlx.bench.suite.throughput import (
    AT_ONCE,
    DEFAULT,
    FAIR,
    FIXED,
    LOADED,
    PLAIN,
    Row,
    arms,
    judge,
    measure,
    show,
)
from helix_mlx.engine.engine import Engine

PROMPTS = [[5], [7, 8, 9], [3, 4], [6]]


def test_all_arms_answer_alike(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [greedy(engine.pair, prompt, 8) for prompt in PROMPTS]
    with arms(engine.pair, engine.pair, 2) as named:
        assert set(named) == {FAIR, PLAIN, DEFAULT, *(f"helix K={count}" for count in FIXED)}
        rows = measure(named, 2, PROMPTS, 8, repeats=2)
    for row in rows.values():
        assert row.answers == expected[1::2], row.name  # the second repeat asks the other half
        assert len(row.tokens_per_s) == 2
    show(rows)
    assert "2 at once" in capsys.readouterr().out


def test_mlx_lm_runs_twice_where_its_weights_are_not_ours(engine: Engine) -> None:
    other = replace(engine.pair)
    with arms(engine.pair, other, 1) as named:
        assert LOADED in named
    with arms(engine.pair, other, 1, few=True) as named:
        assert set(named) == {FAIR, PLAIN, DEFAULT}


@pytest.mark.parametrize(("at_once", "drafted", "met"), [(1, 3.0, [True] * 3), (1, 0.5, [True, False, False])])
def test_drafts_have_to_be_ahead_of_both(at_once: int, drafted: float, met: list[bool]) -> None:
    speeds = {FAIR: 1.0, PLAIN: 2.0, DEFAULT: drafted}
    rows = {name: Row(at_once, name, [speed, speed]) for name, speed in speeds.items()}
    assert [line.met for line in judge(rows)] == met
    assert len(judge({name: rows[name] for name in (FAIR, PLAIN)})) == 1


def test_with_many_at_once_drafts_only_must_not_lose() -> None:
    rows = {name: Row(max(AT_ONCE), name, [2.0]) for name in (FAIR, PLAIN, DEFAULT)}
    assert [line.met for line in judge(rows)] == [True, True]
