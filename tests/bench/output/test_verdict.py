from __future__ import annotations

from typing import Any

import pytest

from helix_mlx.bench.output.verdict import verdict
from helix_mlx.bench.suite.arms import AUTO, PLAIN, THEIRS

MEMORY = {"pages": {"at_once": 60.0, "unused_fraction": 0.04}, "mlx_lm": {"at_once": 20.0, "unused_fraction": 0.5}}


def compared(identical: bool, margin: float | None = None, temperature: float = 0.0) -> dict[str, Any]:
    return {"against": PLAIN, "identical": identical, "margin": margin, "temperature": temperature}


def spoken(arm: str, speed: float, workload: str = "code", repeat: int = 0) -> dict[str, Any]:
    return {
        "workload": workload, "temperature": 0.0, "context": None, "repeat": repeat, "arm": arm, "tokens_per_s": speed
    }  # fmt: skip


LATENCY = [
    spoken(arm, speed * factor, workload)
    for workload, factor in (("code", 1.5), ("chat", 1.2), ("edit", 2.0))
    for arm, speed in ((THEIRS, 2.0), ("mlx-lm K=3", 4.0), (PLAIN, 20.0 / factor), (AUTO, 20.0), ("helix K=2", 99.0))
]
PARTS = {"exactness": [compared(True), compared(True)], "latency": LATENCY, "memory": MEMORY}


def test_a_whole_suite_in_three_lines() -> None:
    exact, fast, fits = verdict(PARTS)
    assert exact == "Exactness: all 2 answers with drafts equal those without, token for token."
    assert fast == (
        "Speed: 1.50 times as fast as without drafts, and 5.00 times as fast as mlx-lm at its fastest "
        "(medians of 3 cases; lowest: 1.20 and 5.00)."
    )
    assert fits.startswith("Memory: 3.00 times as many concurrent answers as mlx-lm's padded batch")
    assert "4% of what they hold is unused" in fits
    assert "the acceptance rate is simulated" in verdict(PARTS, made_up=True)[1]


@pytest.mark.parametrize("kept", [(), ("exactness",), ("latency",), ("memory",), ("exactness", "latency")])
def test_a_part_that_did_not_run_is_said_not_to_be_measured(kept: tuple[str, ...]) -> None:
    told = verdict({name: PARTS[name] for name in kept})
    assert [line.split(":")[0] for line in told] == ["Exactness", "Speed", "Memory"]
    for name, line in zip(("exactness", "latency", "memory"), told, strict=True):
        assert ("not measured" in line) is (name not in kept)
    assert verdict({"exactness": [], "latency": []}) == verdict({})


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ((AUTO,), "not measured"),
        ((PLAIN, "helix K=2"), "not measured"),
        ((PLAIN, AUTO), "1.50 times as fast as without drafts (medians of 3 cases; lowest: 1.20)"),
        ((AUTO, THEIRS), "10 times as fast as mlx-lm at its fastest (medians of 3 cases; lowest: 10)"),
    ],
)
def test_any_choice_of_arms_has_a_line(arms: tuple[str, ...], told: str) -> None:
    assert verdict({"latency": [each for each in LATENCY if each["arm"] in arms]})[1] == f"Speed: {told}."


def test_a_run_that_was_broken_off_compares_the_repeats_that_both_sides_have() -> None:
    records = [spoken(AUTO, 30.0), spoken(PLAIN, 20.0), spoken(AUTO, 900.0, repeat=1), spoken(AUTO, 9.0, "chat")]
    assert verdict({"latency": records})[1] == "Speed: 1.50 times as fast as without drafts."


def test_answers_that_differ_are_never_called_exact() -> None:
    parted = [compared(True), compared(False, 0.25), compared(False, 0.5), compared(False, 7.0, temperature=0.8)]
    told = verdict({"exactness": [*parted, {**compared(False), "against": "mlx-lm"}]})[0]
    assert told.startswith("Exactness: NOT exact, 3 of 4 answers with drafts differ")
    assert "at most 0.5000 logits apart" in told
    assert "logits" not in verdict({"exactness": [compared(False, 7.0, temperature=0.8)]})[0]


def test_a_budget_in_which_mlx_lm_holds_nothing_is_no_division_by_zero() -> None:
    none = {**MEMORY, "mlx_lm": {"at_once": 0.0, "unused_fraction": 0.0}}
    assert "60 concurrent answers, where mlx-lm's padded batch holds none" in verdict({"memory": none})[2]
