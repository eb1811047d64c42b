"""Ctrl-C as a flag that is checked between passes, instead of an exception in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from helix_mlx.types import Cancel

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


@contextmanager
def ctrl_c_as_flag() -> Iterator[Cancel]:
    """While the body runs, Ctrl-C only sets a flag.

    Yields:
        A function that tells whether it was.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ctrl_c_as_exception() -> Iterator[None]:
    """While the body runs, Ctrl-C raises KeyboardInterrupt even if it is handled otherwise outside."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
