"""`helix-mlx doctor`: it tells what is there, and ends with 1 where its own check fails."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from helix_mlx.cli import doctor
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.doctor import Check
from helix_mlx.errors import ModelError
from tests.cli.conftest import Run


def test_it_tells_everything_and_checks_itself(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["versions"]["mlx"] == metadata.version("mlx")
    assert report["device"]["device"] in ("cpu", "gpu")
    assert report["device"]["chip"]
    assert "tiny" in report["pairs_on_disk"]
    assert set(report["kernels"]) == {"cpu_kernels", "cpu_threads", "reason"}
    assert [check["holds"] for check in report["checks"]] == [True, True]


def test_for_people_it_is_a_line_a_thing(run: Run) -> None:
    lines = run("doctor").stdout.splitlines()
    names = ["helix-mlx", "versions", "device", "memory", "working set", "CPU kernels", "local pairs", "check", "check"]
    assert [line[:12].strip() for line in lines] == names


def test_a_check_that_fails_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda terminal: ({}, [Check("it works", False, "it does not")]))
    result = run("doctor")
    assert result.exit_code == 1
    assert "it works: FAILS (it does not)" in result.stdout


def test_a_pair_that_does_not_load_is_a_failed_check(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    def load(**settings: object) -> None:
        raise ModelError("the weights are gone")

    monkeypatch.setattr("helix_mlx.engine.engine.load", load)
    kernels, checks = doctor.examine(terminal)
    assert (kernels, checks) == ({}, [Check("built-in pair loads", False, "the weights are gone")])
