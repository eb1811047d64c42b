"""The cost table: from cycles that were measured, and on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from helix_mlx.speculative.calibration import FORMAT, CostTableKey, CostTableStore
from helix_mlx.speculative.calibration import cost_table_of as cost_table_or_none
from helix_mlx.speculative.cost_model import CostTable, CycleKind

KEY = CostTableKey("Apple M3 Max", "0.32.4", "a target of 4 bits", "a draft", "off", 1024)
COSTS = CostTable((1.0, 1.1, 1.2, 1.3, 1.4, 1.8, 2.0, 2.2), 0.2, 0.01)


def cost_table_of(seconds: dict[CycleKind, list[float]], reads: list[tuple[int, float]]) -> CostTable:
    cost_table = cost_table_or_none(seconds, reads)
    assert cost_table is not None
    return cost_table


def test_a_cost_table_is_made_of_medians() -> None:
    seconds = {(count, False): [1.0 + 0.1 * count, 9.0, 1.0 + 0.1 * count] for count in range(8)}
    seconds |= {(2, True): [1.6], (5, True): [2.5]}
    cost_table = cost_table_of(seconds, [(64, 0.84), (3, 5.0)])
    assert cost_table.target_s == pytest.approx([1.0 + 0.1 * count for count in range(8)])
    assert cost_table.draft_s == pytest.approx(0.2)
    assert cost_table.draft_read_s == pytest.approx(0.01)


def test_what_was_left_out_lies_between_its_neighbours() -> None:
    cost_table = cost_table_of({(0, False): [1.0], (4, False): [2.0], (7, False): [2.6]}, [])
    assert cost_table.target_s == pytest.approx((1.0, 1.25, 1.5, 1.75, 2.0, 2.2, 2.4, 2.6))
    assert cost_table.draft_s == 0.0


def test_noise_makes_no_row_cheaper_and_no_step_free() -> None:
    seconds = {(count, False): [cost] for count, cost in enumerate((1.0, 0.9, 1.2, 1.1, 1.3, 1.4, 1.5, 1.6))}
    cost_table = cost_table_of({**seconds, (2, True): [1.1]}, [])
    assert list(cost_table.target_s) == sorted(cost_table.target_s)
    assert cost_table.draft_s > 0


@pytest.mark.parametrize("kind", [(0, False), (7, False)])
def test_without_its_ends_there_is_no_cost_table(kind: CycleKind) -> None:
    seconds: dict[CycleKind, list[float]] = {(0, False): [1.0], (4, False): [2.0], (7, False): [2.6]}
    assert cost_table_or_none({**seconds, kind: []}, []) is None
    assert cost_table_or_none({}, []) is None


def test_a_cost_table_is_found_again(tmp_path: Path) -> None:
    store = CostTableStore(tmp_path / "deep" / "folder")
    assert store.find(KEY) is None
    assert store.keep(KEY, COSTS)
    assert store.find(KEY) == COSTS
    assert [file.suffix for file in (tmp_path / "deep" / "folder").iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change",
    [{"chip": "Apple M4"}, {"mlx": "0.33"}, {"target": "8 bits"}, {"draft": ""}, {"context": 4096}, {"batch": 4}],
)
def test_another_machine_or_pair_has_another_cost_table(tmp_path: Path, change: dict[str, object]) -> None:
    store = CostTableStore(tmp_path)
    store.keep(KEY, COSTS)
    assert store.find(replace(KEY, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        json.dumps({"format": FORMAT + 1, "key": asdict(KEY), "cost_table": asdict(COSTS)}),
        json.dumps({"format": FORMAT, "key": {}, "cost_table": asdict(COSTS)}),
        json.dumps(
            {"format": FORMAT, "key": asdict(KEY), "cost_table": {"target_s": [1.0], "draft_s": 0, "draft_read_s": 0}}
        ),
        json.dumps({"format": FORMAT, "key": asdict(KEY), "cost_table": {**asdict(COSTS), "target_s": [0.0] * 8}}),
        json.dumps({"format": FORMAT, "key": asdict(KEY), "cost_table": {**asdict(COSTS), "draft_s": "x"}}),
        *(
            json.dumps({"format": FORMAT, "key": asdict(KEY), "cost_table": {**asdict(COSTS), name: number}})
            for name in ("draft_s", "draft_read_s")
            for number in (float("inf"), float("nan"), -1.0)
        ),
    ],
)
def test_a_file_that_means_nothing_is_measured_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY.file_name).write_text(text)
    assert CostTableStore(tmp_path).find(KEY) is None


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert not CostTableStore(file / "folder").keep(KEY, COSTS)
