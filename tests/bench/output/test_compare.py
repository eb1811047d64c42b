from __future__ import annotations

from typing import Any

from helix_mlx.bench.output.compare import MOST_ROWS, compared, medians


def receipt(**parts: Any) -> dict[str, Any]:
    about = {"machine": {"chip": "M4"}, "versions": {"mlx": "1.0"}, "when": "today", "command": "bench x"}
    return {"format": 1, "complete": True, **about, **parts}


def test_figures_of_one_place_are_one_median() -> None:
    rows = [
        {"arm": arm, "repeat": repeat, "tokens": [1, 2], "tokens_per_s": speed * (repeat + 1), "ok": True}
        for arm, speed in (("plain", 10.0), ("auto", 20.0))
        for repeat in range(3)
    ]
    assert medians("latency", rows) == {"latency plain tokens_per_s": 20.0, "latency auto tokens_per_s": 40.0}


def test_what_both_have_stands_side_by_side() -> None:
    first = receipt(memory={"pages": 4.0, "none": 0, "only": 1}, settings={"repeats": 3})
    second = receipt(memory={"pages": 6.0, "none": 0}, settings={"repeats": 4}, complete=False)
    lines = compared(first, second)
    assert lines[0] == "first : M4, mlx 1.0, today: bench x"
    assert "broken off" in lines[1]
    assert [line.split() for line in lines[4:]] == [
        ["memory", "pages", "4", "6", "1.500"],
        ["memory", "none", "0", "0", "-"],
    ]


def test_receipts_of_different_measurements_have_nothing_in_common() -> None:
    assert compared(receipt(memory={"pages": 1}), receipt(latency={"speed": 1}))[-1] == "They have no figure in common."


def test_speeds_are_shown_first_and_the_rest_is_counted() -> None:
    figures: dict[str, float] = {f"figure {number}": 1.0 for number in range(MOST_ROWS + 5)} | {"tokens_per_s": 2.0}
    lines = compared(receipt(latency=figures), receipt(latency=figures))
    assert "tokens_per_s" in lines[4]
    assert lines[-1] == "... and 6 more in the files"
    assert len(lines) == 4 + MOST_ROWS + 1
