"""What every measurement's command does with its figures."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.options import NOT_MET
from helix_mlx.bench.output.tables import Asked


@measurement
@click.option("--size", default=3)
def weigh(size: int) -> Measured:
    """Weigh something."""
    click.echo("a table")
    return {"weight": size}, [Asked("weight", "at most 3", str(size), size <= 3)]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        weigh.main(args=list(words), prog_name="weigh")
    return int(str(ended.value.code))


def test_its_help_shows_its_own_options_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert "Weigh something." in told
    assert told.index("--size") < told.index("--json")


def test_json_is_alone_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipt.json"
    assert run("--size", "2", "--json", "--check", "--out", str(file)) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data == json.loads(file.read_text())
    assert (data["figures"], data["settings"], data["complete"]) == ({"weight": 2}, {"size": 2}, True)
    assert data["asked"][0]["met"]
    assert "a table" in err
    assert "met      weight" in err


def test_only_check_makes_a_limit_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--size", "4") == 0
    assert "NOT MET" not in capsys.readouterr().out
    assert run("--size", "4", "--check") == NOT_MET
    out, _ = capsys.readouterr()
    assert out.splitlines()[0] == "a table"
    assert "NOT MET  weight: required at most 3, measured 4" in out
