from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helix_mlx.cli.app import program
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.options import Options, engine_config
from tests.cli.fakes import FakeEngine

Run = Callable[..., Result]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """A fake engine, which every command of this test opens instead of a real one."""
    fake = FakeEngine()

    def open_engine(options: Options, terminal: Terminal) -> Any:
        fake.config, fake.options = engine_config(options), options
        return fake

    monkeypatch.setattr("helix_mlx.cli.chat.open_engine", open_engine)
    monkeypatch.setattr("helix_mlx.cli.generate.open_engine", open_engine)
    return fake


@pytest.fixture
def run() -> Run:
    """Runs the program on some words, with a text on standard input."""

    def run_program(*words: str, text: str = "") -> Result:
        return CliRunner().invoke(program, list(words), input=text, prog_name="helix-mlx", obj={})

    return run_program


@pytest.fixture
def terminal() -> Terminal:
    """A terminal in colour that keeps what is written to it."""
    return Terminal(io.StringIO(), io.StringIO(), live=True, colour=True, live_errors=True)
