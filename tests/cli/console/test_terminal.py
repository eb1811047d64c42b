from __future__ import annotations

import io
import sys

import pytest

from helix_mlx.cli.console.terminal import Terminal


class Screen(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "no_color", "colour"),
    [
        ({}, False, True),
        ({"NO_COLOR": ""}, False, True),
        ({"NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({}, True, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], no_color: bool, colour: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    terminal = Terminal.of_process(environment, no_color)
    assert terminal.live
    assert terminal.colour is colour
    assert terminal.paint("text", "2") == ("\x1b[2mtext\x1b[0m" if colour else "text")


def test_a_pipe_is_neither_live_nor_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    terminal = Terminal.of_process({}, False)
    assert not terminal.live
    assert not terminal.colour
