"""`helix-mlx bench` from its words to its files, on a pair that is made up in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helix_mlx.bench.output.options import NOT_MET
from helix_mlx.bench.suite.parts import PARTS as RUNS
from helix_mlx.cli.app import program
from helix_mlx.cli.bench import MEASUREMENTS, PARTS
from helix_mlx.cli.console.interrupt import INTERRUPTED

SMALL = ["bench", "latency", "--synthetic", "small/smaller", "--quick", "--max-tokens", "8", "--workload", "code"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        program.main(args=list(words), prog_name="helix-mlx", obj={})
    return int(str(ended.value.code))


def data_of(receipt: Path, other_format: int) -> str:
    return json.dumps({**json.loads(receipt.read_text()), "format": other_format})


def test_every_part_has_its_word() -> None:
    assert tuple(RUNS) == tuple(PARTS)


def test_a_part_is_measured_and_leaves_a_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipt.json"
    assert run(*SMALL, "--acceptance", "0.9", "--out", str(file)) == 0
    out, err = capsys.readouterr()
    assert "SYNTHETIC" in out
    assert "helix auto" in out
    assert "NOT MET" not in out
    assert "Helix's own limits" not in out
    assert str(file) in err
    data = json.loads(file.read_text())
    assert data["complete"]
    assert "90%" in data["synthetic"]
    assert {record["arm"] for record in data["latency"]} >= {"mlx-lm plain", "helix plain", "helix auto"}
    assert data["settings"]["acceptance"] == 0.9


def test_the_receipt_is_all_that_json_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--json", "--check") in (0, NOT_MET)
    out, err = capsys.readouterr()
    assert json.loads(out)["latency"]
    assert "Helix's own limits" in err


def test_the_suite_ends_in_three_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: RUNS[name] for name in ("latency", "memory", "exactness")}
    monkeypatch.setattr("helix_mlx.cli.bench.PARTS", few)
    words = ["--synthetic", "small/smaller", "--quick", "--max-tokens", "8", "--workload", "code", "--arm", "helix K=2"]
    assert run("bench", *words) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["Exactness", "Speed", "Memory"]
    assert "mlx-lm" not in lines[1]  # it did not run


@pytest.mark.parametrize("place", ["helix_mlx.bench.output.verdict.verdict", "helix_mlx.bench.suite.latency.show"])
def test_a_receipt_outlives_whatever_goes_wrong_after_measuring(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("helix_mlx.cli.bench.PARTS", {"latency": RUNS["latency"]})
    monkeypatch.setattr(place, broken)
    file = tmp_path / "receipt.json"
    with pytest.raises(ZeroDivisionError):
        program.main(args=["bench", *SMALL[2:], "--arm", "helix K=2", "--out", str(file)], obj={})
    assert len(json.loads(file.read_text())["latency"]) == 3
    assert str(file) in capsys.readouterr().err


def test_every_measurement_is_listed_and_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [*PARTS, *MEASUREMENTS]
    for name in names:
        assert run("bench", name, "--help") == 0
        told = capsys.readouterr().out
        assert "--json" in told
        assert "--out" in told


def test_two_receipts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        assert run("bench", "simulation", "--tokens", "60", "--seeds", "1", "--out", str(file)) == 0
    capsys.readouterr()
    assert run("bench", "compare", *map(str, files)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "helix-mlx bench simulation" in lines[0]
    assert lines[3].split() == ["first", "second", "ratio"]
    assert len(lines) > 10
    assert all(line.split()[-1] in ("1.000", "-") for line in lines[4:])
    for wrong, told in (("{}", "not a receipt"), ("[", "cannot read"), (data_of(files[0], 7), "format 7")):
        files[1].write_text(wrong)
        assert run("bench", "compare", *map(str, files)) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from helix_mlx.bench.suite import latency

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "show", interrupted)
    file = tmp_path / "receipt.json"
    assert run(*SMALL, "--out", str(file)) == INTERRUPTED
    data = json.loads(file.read_text())
    assert not data["complete"]
    assert data["latency"]
    assert "Completed: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pair", "tiny", "--synthetic", "small/smaller"], "cannot be used together"),
        (["memory", "--plot", "x.png"], "--plot shows latency"),
        (["throughput", "--arm", "helix K=2"], "--arm applies to latency only"),
        (["--synthetic", "small"], "TARGET/DRAFT"),
        (["--repeats", "0"], "not in the range"),
        (["everything"], "No such command"),
        (["memory", "--json", "x.json"], "--out FILE"),
        (["simulation", "--json", "x.json"], "--out FILE"),
        (["--json", "x.json"], "--out FILE"),
        (["--quick", "--no-color", "memory"], "--quick, --no-color before memory has no effect"),
        (["memory", "--out", "nowhere/x.json"], "no folder nowhere"),
        (["latency", "--plot", "nowhere/x.png"], "no folder nowhere"),
        (["simulation", "--out", "nowhere/x.json"], "no folder nowhere"),
        (["pool-size", "--pair", "tiny", "--target", "x"], "cannot be used together"),
        (["pool-size", "--pages", "0"], "not in the range"),
        (["attention", "--context", "8", "--rows", "8"], "less than --context, 8"),
        (["attention", "--repeats", "0"], "not in the range"),
        (["simulation", "--tokens", "0"], "not in the range"),
        (["conversion", "--repeats", "0"], "not in the range"),
        (["distillation", "--teach", "none"], "'auto', 'full', 'lora'"),
        (["replay", "--write", "nowhere/x.json"], "no folder nowhere"),
        (["replay", "--read", __file__], "name a recording"),
        (["replay", "--cost-table", "abacus"], "m4-pro"),
        (["replay", "--ladder", "m4-pro"], "--ladder is now called --cost-table"),
    ],
)
def test_a_mistake_is_told_in_a_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["bench", "--help"], ["bench", "list"], ["bench", "latency", "--help"]])
def test_help_and_the_list_import_no_mlx(words: list[str]) -> None:
    code = (
        f"import sys\nfrom helix_mlx.cli import main\ntry:\n    main({words!r})\nexcept SystemExit as end:\n"
        "    assert not end.code\nassert not {'mlx', 'mlx_lm', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    assert "latency" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
