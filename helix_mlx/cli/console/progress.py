"""Progress of long operations: shown after two seconds, and only at a terminal, where it can be erased."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from helix_mlx.cli.console.terminal import Terminal

PATIENCE_S = 2.0
TICK_S = 0.5
WIDTH = 24


class ProgressBar:
    """A progress bar on standard error for a known number of steps, such as the tokens of a prompt.

    Args:
        terminal: where it is drawn; it stays silent where standard error is no terminal.
        label: what is under way.
        clock: seconds, for tests.
    """

    def __init__(self, terminal: Terminal, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._label = label
        self._clock = clock
        self._began = clock()
        self._drawn = False

    def update(self, done: int, total: int) -> None:
        """Draw the bar, once the operation has taken long enough."""
        if not self._terminal.live_errors or self._clock() - self._began < PATIENCE_S or total <= 0:
            return
        full = WIDTH * done // total
        self._draw(f"{self._label} [{'=' * full}{' ' * (WIDTH - full)}] {done}/{total}")

    def tick(self) -> None:
        """Draw the elapsed time, if the total is unknown."""
        seconds = self._clock() - self._began
        if self._terminal.live_errors and seconds >= PATIENCE_S:
            self._draw(f"{self._label} ... {seconds:.0f} s")

    def wipe(self) -> None:
        """Erase the bar."""
        if self._drawn:
            self._terminal.err.write("\r\x1b[K")
            self._terminal.err.flush()
            self._drawn = False

    def _draw(self, text: str) -> None:
        self._terminal.err.write(f"\r\x1b[K{text}")
        self._terminal.err.flush()
        self._drawn = True


class ProgressBars:
    """Progress bars for consecutive steps, one at a time; a context manager that erases the last.

    Args:
        terminal: where they are drawn.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._label = ""
        self._bar = ProgressBar(terminal, "")

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.wipe()

    def update(self, label: str, done: int, total: int) -> None:
        """Draw a step's progress; a new label starts a new bar."""
        if label != self._label:
            self._bar.wipe()
            self._label, self._bar = label, ProgressBar(self._terminal, label[:1].upper() + label[1:])
        self._bar.update(done, total)

    def line(self, text: str) -> None:
        """Write a line to standard error where the bar was."""
        self._bar.wipe()
        self._terminal.error_line(text)


@contextmanager
def ticking(terminal: Terminal, label: str) -> Iterator[None]:
    """Show the elapsed time while the body runs."""
    bar, done = ProgressBar(terminal, label), threading.Event()

    def tick() -> None:
        while not done.wait(TICK_S):
            bar.tick()

    thread = threading.Thread(target=tick, daemon=True)
    if terminal.live_errors:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
        bar.wipe()
