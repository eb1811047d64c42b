from __future__ import annotations

import click
import pytest

from helix_mlx.bench.studies.distillation import program, show


def measured(temperature: float, acceptance: float) -> dict[str, float]:
    return {"temperature": temperature, "acceptance": acceptance, "tokens_per_cycle": 1 + 4 * acceptance}


def test_the_least_gain_counts(capsys: pytest.CaptureFixture[str]) -> None:
    before = [measured(0.0, 0.25), measured(0.8, 0.25)]
    report = {"before": before, "after": [measured(0.0, 0.75), measured(0.8, 0.5)]}
    asked = show(report, seconds=120.0)
    assert [line.measured for line in asked] == ["0.250", "2.0"]
    assert all(line.met for line in asked)
    assert "temperature 0.8" in capsys.readouterr().out
    asked = show({"before": before, "after": before}, seconds=6000.0)
    assert not any(line.met for line in asked)


def test_a_step_that_fails_is_told() -> None:
    assert program("-c", "print(7)") == "7\n"
    with pytest.raises(click.ClickException, match="convert distill ended with 3"):
        program("-c", "raise SystemExit(3)", "convert", "distill")
