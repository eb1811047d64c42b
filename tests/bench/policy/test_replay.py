from __future__ import annotations

import pytest

from helix_mlx.bench.fixtures.answers import Ask
from helix_mlx.bench.policy.replay import AUTO, PLAIN, Player, Recorded, fixed_seconds, judge, play, record
from helix_mlx.bench.suite.arms import helix_arm
from helix_mlx.engine.engine import Engine
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.draft_length import NO_DRAFT
from helix_mlx.speculative.registry import MODEL, NGRAM

COSTS = CostTable((1.0, 1.1, 1.2, 1.3, 1.5, 1.9, 2.1, 2.3), draft_s=0.2, draft_read_s=0.01)
NEW = list(range(100, 140))
"""A text in which nothing comes twice."""


def made_up(kept: int, text: list[int] = NEW, prompt: list[int] | None = None) -> Recorded:
    return Recorded("code", 0.0, 0, prompt or [1, 2, 3], text, [kept] * len(text), len(text))


def player(recorded: Recorded) -> Player:
    return Player(recorded, COSTS, lambda: 1.0)


def test_a_fixed_draft_length_takes_what_its_cycles_cost() -> None:
    reading = COSTS.draft_s + 2 * COSTS.draft_read_s  # of three tokens and one that came; two are read in the cycle
    assert fixed_seconds(player(made_up(7)), PLAIN) == pytest.approx(39.0)
    assert fixed_seconds(player(made_up(7)), "2") == pytest.approx(13 * 1.6 + reading - COSTS.draft_s)
    assert fixed_seconds(player(made_up(0)), "2") == pytest.approx(37 * 1.6 + 1.3 + 1.0 + reading - COSTS.draft_s)
    long = made_up(7, prompt=list(range(20)))
    assert fixed_seconds(player(long), "2") == pytest.approx(13 * 1.6 + COSTS.draft_s + 19 * COSTS.draft_read_s)


def test_n_grams_are_looked_up_in_the_text_itself() -> None:
    assert fixed_seconds(player(made_up(0)), NGRAM) == pytest.approx(39.0)
    again = player(made_up(0, text=[9] * 41))
    assert fixed_seconds(again, NGRAM) < 41 * 0.5


@pytest.mark.parametrize(("count", "temperature"), [(2, 0.0), (5, 0.0), (3, 0.8)])
def test_played_cycles_are_those_of_the_engine(engine: Engine, count: int, temperature: float) -> None:
    recorded = record(engine, "chat", temperature, 1, 24)
    answer = helix_arm(engine, count, MODEL, Ask(recorded.prompt, 24, temperature, 1))
    assert answer.tokens == recorded.text
    going, cycles, kept = player(recorded), 0, 0
    while going.going:
        going.sequence.drafting.set_next(MODEL, count)
        kept += going.cycle()[0]
        cycles += 1
    assert cycles == answer.target_passes
    assert kept + cycles == len(recorded.text) - 1
    assert going.sequence.tokens == recorded.prompt + recorded.text


def test_without_drafts_every_token_is_a_cycle(engine: Engine) -> None:
    recorded = record(engine, "chat", 0.0, 0, 8)
    going = player(recorded)
    going.sequence.drafting.set_next(NO_DRAFT, 0)
    while going.going:
        assert going.cycle() == (0, 1.0)
    assert going.seconds == 7.0


def test_auto_is_judged_beside_the_best_in_hindsight() -> None:
    recording = [made_up(7), made_up(7), made_up(7)]
    found = judge(recording, [play(recording, COSTS, seed) for seed in range(2)])
    assert [f.workload for f in found] == ["code"]
    assert found[0].best.isdigit()
    assert found[0].by_plain > 1.2
    assert found[0].by_best > 0.85
    assert {AUTO, PLAIN, "7", NGRAM} <= play(recording, COSTS, 0)[0].keys()
