from __future__ import annotations

import pytest

from helix_mlx.bench.output.tables import Asked, Spread, show_limits, table


def test_a_spread_is_the_median_and_the_quartiles_around_it() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([1.0, 9.0, 2.0]) == Spread(2.0, 1.0, 9.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert str(Spread.of([1.0, 2.0])) == "1.500 (1.000 to 2.000)"


def test_columns_stand_under_their_heads(capsys: pytest.CaptureFixture[str]) -> None:
    table(["", "speed"], [["a", 1], ["longer", 1000]])
    assert capsys.readouterr().out.splitlines() == ["        speed", "a           1", "longer   1000"]


def test_limits_are_met_all_or_not() -> None:
    lines: list[str] = []
    good, bad = Asked("speed", "at least 1", "2", True), Asked("memory", "below 4%", "5%", False)
    assert show_limits([good], lines.append)
    assert not show_limits([good, bad], lines.append)
    assert lines[-1] == "NOT MET  memory: required below 4%, measured 5%"
    assert show_limits([], lines.append)
    assert "no limits" in lines[-1]
