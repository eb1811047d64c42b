"""`helix-mlx bench` from its words to its files, on a pair that is made up in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_mlx.bench.suite.parts import PARTS as RUNS
from helix_mlx.cli.app import program
from helix_mlx.cli.bench import PARTS
from helix_mlx.cli.console.interrupt import INTERRUPTED

SMALL = ["bench", "latency", "--synthetic", "small/smaller", "--quick", "--max-tokens", "8", "--workload", "code"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        program.main(args=list(words), prog_name="helix-mlx", obj={})
    return int(str(ended.value.code))


def test_every_part_has_its_word() -> None:
    assert tuple(RUNS) == PARTS


def test_a_part_is_measured_and_leaves_a_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipt.json"
    assert run(*SMALL, "--acceptance", "0.9", "--json", str(file)) == 0
    out, err = capsys.readouterr()
    assert "SYNTHETIC" in out
    assert "helix auto" in out
    assert "auto by mlx-lm best" in out
    assert str(file) in err
    data = json.loads(file.read_text())
    assert data["complete"]
    assert "90%" in data["synthetic"]
    assert {record["arm"] for record in data["latency"]} >= {"mlx-lm plain", "helix plain", "helix auto"}
    assert data["settings"]["acceptance"] == 0.9


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from helix_mlx.bench.suite import latency

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "show", interrupted)
    file = tmp_path / "receipt.json"
    assert run(*SMALL, "--json", str(file)) == INTERRUPTED
    data = json.loads(file.read_text())
    assert not data["complete"]
    assert data["latency"]
    assert "Whole parts: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pair", "tiny", "--synthetic", "small/smaller"], "exclude each other"),
        (["memory", "--plot", "x.png"], "--plot draws speeds"),
        (["throughput", "--arm", "helix K=2"], "--arm chooses"),
        (["--synthetic", "small"], "TARGET/DRAFT"),
        (["--repeats", "0"], "not in the range"),
        (["everything"], "not one of"),
    ],
)
def test_a_mistake_is_told_in_a_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_help_imports_no_mlx() -> None:
    result = CliRunner().invoke(program, ["bench", "--help"])
    assert "--synthetic" in result.output
