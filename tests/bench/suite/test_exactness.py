from __future__ import annotations

from helix_mlx.bench.fixtures.prompts import WORKLOADS
from helix_mlx.bench.suite.exactness import Compared, compare, judge, margin, parting, show
from helix_mlx.engine.engine import Engine


def test_drafts_change_nothing(engine: Engine) -> None:
    told: list[tuple[int, int]] = []
    found = compare(engine, 1, 5, 7, lambda done, total: told.append((done, total)))
    assert {each.workload for each in found} == set(WORKLOADS)
    assert {each.against for each in found} == {"helix plain", "mlx-lm"}
    assert all(each.position is None and each.to_json()["identical"] for each in found)
    assert all(line.met for line in judge(found))
    assert told[-1] == (len(WORKLOADS), len(WORKLOADS))


def test_where_answers_part_is_told_with_both_tokens_and_the_margin(engine: Engine) -> None:
    assert parting(engine, [3], [4, 5, 6], [4, 5, 6]) == (None, None, None, None)
    position, expected, found, distance = parting(engine, [3], [4, 5, 6], [4, 9, 6])
    assert (position, expected, found) == (1, 5, 9)
    assert distance == margin(engine, [3, 4])
    assert distance is not None
    assert distance > 0
    assert parting(engine, [3], [4, 5], [4])[:3] == (1, 5, None)


def test_a_text_that_parts_is_no_success() -> None:
    parted = Compared("code", 0.0, 0, "helix plain", "K=4", 9, 3, 5, 9, 0.25)
    assert not judge([parted])[0].met
    lines: list[str] = []
    show([parted], lines.append)
    assert "token 3 is 9 and not 5" in lines[-1]
    assert "0.2500 apart" in lines[-1]
