"""The model of the controller on other machines: its cost tables, its traces, and what it compares."""

from __future__ import annotations

import random

import pytest

from helix_mlx.bench.policy.simulation import compare, cost_tables, interpolated, run, traces
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.cost_model import CostTable

LADDER = CostTable((1.0,) * 8, draft_s=0.1)


def test_costs_between_measured_rows_lie_on_the_line_between_them() -> None:
    assert interpolated((1, 4), (1.0, 1.6), 4) == 1.6
    assert interpolated((1, 4), (1.0, 1.6), 2) == pytest.approx(1.2)


def test_every_shipped_cost_table_is_whole_and_in_passes_of_one_row() -> None:
    for cost_table in cost_tables(0.1).values():
        assert len(cost_table.target_s) == MAX_DRAFT_TOKENS + 1
        assert cost_table.target_s[0] == 1.0
        assert cost_table.draft_s == 0.1


def test_traces_are_chances_for_every_position() -> None:
    for trace in traces(50).values():
        assert len(trace) == 50
        assert all(0 <= chance <= 1 for chance in trace)


def test_a_run_emits_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.bench.policy.simulation.NOISE", 0.0)
    told: list[tuple[int, int, int]] = []

    def note(count: int, kept: int, _: float, behind: int) -> None:
        told.append((count, kept, behind))

    plain = run([0.5] * 12, LADDER, lambda _: 0, random.Random(0), note)
    assert (plain.speed, plain.cycles, plain.drafted) == (1.0, 12, 0)
    assert [behind for _, _, behind in told] == list(range(1, 13))
    told.clear()
    sure = run([1.0] * 12, LADDER, lambda left: min(3, left - 1), random.Random(0), note)
    assert told == [(3, 3, 0)] * 3
    assert (sure.cycles, sure.drafted) == (3, 9)
    assert sure.speed == pytest.approx(12 / (3 * 1.3))
    never = run([0.0] * 12, LADDER, lambda left: min(3, left - 1), random.Random(0), note)
    assert never.cycles == 12


def test_auto_is_compared_with_every_fixed_draft_length_by_the_same_chances() -> None:
    found = compare([0.9] * 300, LADDER, seed=1)
    assert list(found) == ["auto", *map(str, range(MAX_DRAFT_TOKENS + 1))]
    assert found == compare([0.9] * 300, LADDER, seed=1)
    assert found["0"] < found["4"]
    assert found["auto"] > 1.5 * found["0"]
