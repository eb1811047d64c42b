from __future__ import annotations

import pytest

from helix_mlx.bench.fixtures.answers import Answer, Ask
from helix_mlx.bench.suite.arms import AUTO, LLAMA_CPP, PLAIN, THEIRS, all_arms, chosen_arms
from helix_mlx.bench.suite.latency import Found, LatencyPlan, Record, judge, measure, show
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError

PLAN = LatencyPlan(("code", "chat"), (0.0,), (None,), repeats=2, max_tokens=6, rest_s=0.0)


def test_every_arm_says_the_same_and_tells_when(engine: Engine) -> None:
    arms = all_arms(engine.pair, engine)
    ask = Ask([3, 4, 5], max_tokens=24, temperature=0.0, seed=0)
    answers = {name: arm(ask) for name, arm in arms.items()}
    assert {"mlx-lm K=3", "helix K=7", "helix n-gram", AUTO, PLAIN, THEIRS} <= answers.keys()
    expected = answers[THEIRS].tokens
    assert len(expected) == 24
    for name, answer in answers.items():
        assert answer.tokens == expected, name
        assert len(answer.came_s) == 24
        assert answer.came_s == sorted(answer.came_s)
        assert answer.target_passes <= 24
        assert sum(answer.accepted_by_position) <= answer.drafted
    # They differ in the last cycle at most, of which Helix counts the drafts behind the end, too.
    kept = [answers[f"{side} K=4"].accepted_by_position for side in ("helix", "mlx-lm")]
    assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(*kept, strict=True))


def test_a_plan_is_run_whole_with_every_arm_beside_the_others(engine: Engine) -> None:
    records: list[Record] = []
    told: list[tuple[int, int]] = []
    arms = {name: arm for name, arm in all_arms(engine.pair, engine, few=True).items() if name in (PLAIN, AUTO, THEIRS)}
    measure(engine, arms, PLAN, lambda done, total: told.append((done, total)), records)
    assert told[-1] == (12, 12)
    assert {(r.workload, r.repeat, r.arm) for r in records} == {
        (w, repeat, arm) for w in PLAN.workloads for repeat in range(2) for arm in arms
    }
    lines: list[str] = []
    show(Found(records), lines.append)
    assert "temperature 0" in lines[0]
    assert all(record.to_json()["tokens"] for record in records)


def made_up(speeds: dict[str, float]) -> list[Record]:
    """Two answers of each arm, ten tokens at so many a second."""
    return [
        Record("code", 0.0, None, repeat, 5, arm, Answer(list(range(10)), [(i + 1) / speed for i in range(10)]))
        for arm, speed in speeds.items()
        for repeat in range(2)
    ]


def test_ratios_are_those_of_one_repeat() -> None:
    found = Found(made_up({THEIRS: 10, "mlx-lm K=2": 8, PLAIN: 20, "helix K=2": 30, AUTO: 40}))
    key = found.keys[0]
    assert found.best_fixed(key) == "helix K=2"
    assert found.best_theirs(key) == THEIRS
    assert found.ratios(AUTO, PLAIN) == [2.0, 2.0]
    assert found.speed(AUTO, key) == pytest.approx(40)


@pytest.mark.parametrize(
    ("auto", "met"),
    [(40.0, [True] * 5), (29.0, [True] * 5), (19.0, [False, False, True, True, True]), (5.0, [False] * 5)],
)
def test_what_was_asked_is_told_apart(auto: float, met: list[bool]) -> None:
    lines = judge(Found(made_up({THEIRS: 10, "mlx-lm K=2": 8, PLAIN: 20, "helix K=2": 30, AUTO: auto})))
    assert [line.met for line in lines] == met


def test_arms_that_were_asked_for_are_beside_plain_and_auto(engine: Engine) -> None:
    named = all_arms(engine.pair, engine)
    assert list(chosen_arms(named, ())) == list(named)
    assert set(chosen_arms(named, ["helix K=2"])) == {PLAIN, AUTO, "helix K=2"}
    with pytest.raises(SettingsError, match=r'no arm "helix K=9".*helix K=7'):
        chosen_arms(named, ["helix K=9"])


def test_what_was_not_measured_is_not_judged() -> None:
    found = judge(Found(made_up({PLAIN: 100, AUTO: 120, "helix K=2": 110})))
    assert [line.met for line in found] == [True, True]


def test_llama_cpp_takes_its_turns_and_is_told_apart(engine: Engine) -> None:
    named = all_arms(engine.pair, engine, llama_cpp=lambda ask: Answer([1] * ask.max_tokens, [1.0] * ask.max_tokens))
    assert LLAMA_CPP in chosen_arms(named, [LLAMA_CPP])
    found = Found(made_up({LLAMA_CPP: 50, THEIRS: 10, PLAIN: 40, AUTO: 60}))
    assert found.best_fixed(found.keys[0]) == PLAIN
    show(found, lambda line: None)
    judged = {line.what: line.met for line in judge(found)}
    assert judged["auto by llama.cpp, on every workload"]
    worse = judge(Found(made_up({LLAMA_CPP: 70, PLAIN: 40, AUTO: 60})))
    assert [line.met for line in worse if "llama.cpp" in line.what] == [False]
