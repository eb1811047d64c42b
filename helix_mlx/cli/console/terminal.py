"""Standard output and error: are they terminals, and do they take colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

DIM, SHADE, BOLD, ERROR = "2", "36", "1", "31"
"""Escape codes. Drafted tokens are cyan, which is readable on light and dark backgrounds."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def human_bytes(count: int) -> str:
    """A human-readable number of bytes, in powers of ten."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count < 10**7 else f"{count / 10**6:.0f} MB"


def open_streams() -> None:
    """Open /dev/null for standard streams that are closed, as after `>&-`.

    Otherwise the next opened file would get a standard stream's number, and output would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # the compiler of the kernels inherits it
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Redirect a closed stream to /dev/null, or the interpreter complains about it at exit."""
    with suppress(OSError, ValueError):  # an in-memory stream has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


@dataclass(frozen=True)
class Terminal:
    """Standard output and error, and what they are.

    `live` tells output that a person watches as it comes; `colour`, that it takes escape codes; `live_errors`, that
    standard error is a terminal, where a progress bar can be drawn and wiped.
    """

    out: TextIO
    err: TextIO
    live: bool
    colour: bool
    live_errors: bool

    @classmethod
    def of_process(cls, environment: Mapping[str, str], no_color: bool) -> Terminal:
        """This process's standard streams. NO_COLOR and TERM=dumb are honoured."""
        live = sys.stdout.isatty()
        plain = no_color or bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return cls(sys.stdout, sys.stderr, live, live and not plain, sys.stderr.isatty())

    def paint(self, text: str, code: str) -> str:
        """The text in a colour, if colour is enabled."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text

    def write(self, text: str) -> None:
        """Write text at once, without a line end."""
        self.out.write(text)
        self.out.flush()

    def line(self, text: str = "", code: str = "") -> None:
        """Write a line."""
        self.write(self.paint(text, code) + "\n" if code else text + "\n")

    def error_line(self, text: str) -> None:
        """Write a line to standard error; a closed stream is ignored, so that the answer goes on."""
        try:
            self.err.write(text + "\n")
            self.err.flush()
        except BrokenPipeError:
            silence(self.err)
