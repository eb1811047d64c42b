from __future__ import annotations

import io
from dataclasses import replace

from helix_mlx.cli.console.progress import PATIENCE_S, ProgressBar, ticking
from helix_mlx.cli.console.terminal import Terminal


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(terminal: Terminal) -> str:
    assert isinstance(terminal.err, io.StringIO)
    return terminal.err.getvalue()


def test_what_is_quick_shows_nothing(terminal: Terminal) -> None:
    clock = Clock()
    bar = ProgressBar(terminal, "Reading", clock)
    clock.now = PATIENCE_S - 0.1
    bar.update(1, 2)
    bar.tick()
    bar.wipe()
    assert drawn(terminal) == ""


def test_what_takes_long_shows_how_far_it_is_and_is_wiped(terminal: Terminal) -> None:
    clock = Clock()
    bar = ProgressBar(terminal, "Reading", clock)
    clock.now = PATIENCE_S
    bar.update(512, 1024)
    assert drawn(terminal) == f"\r\x1b[KReading [{'=' * 12}{' ' * 12}] 512/1024"
    bar.wipe()
    bar.wipe()
    assert drawn(terminal).endswith("512/1024\r\x1b[K")


def test_without_a_terminal_nothing_is_drawn(terminal: Terminal) -> None:
    clock, plain = Clock(), replace(terminal, live_errors=False)
    bar = ProgressBar(plain, "Reading", clock)
    clock.now = 60
    bar.update(1, 2)
    bar.tick()
    assert drawn(plain) == ""


def test_ticking_ends_with_its_body(terminal: Terminal) -> None:
    with ticking(terminal, "Loading"):
        pass
    assert drawn(terminal) == ""
